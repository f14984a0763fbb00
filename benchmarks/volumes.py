"""Restore a clip with a prior of images: slices alone, coupled by Gaussian differences, or by total variation.

    python benchmarks/volumes.py [--side 48] [--frames 8] [--samples 2]

A crop of a photograph (``chelsea`` of scikit-image, CC0) moves by half a pixel from one frame to the next; 70 % of its pixels
are missing, and the others have noise of 0.05. The default method of ``PosteriorSampler`` restores the frames together, with
noise of every frame and with noise that all frames share. The table has the PSNR of a sample and of the mean (images span
[-1, 1], peak 2), and the root mean square of the error of the differences of neighboring frames, which is what flickers.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from skimage import data
from torch import Tensor

from invdiff import PosteriorSampler, load_prior
from invdiff.operators import FiniteDifferences, GaussianNoise, LaplaceNoise, LinearOperator, Mask, Noise, stack

SIGMA, SHARE = 0.05, 0.3
COUPLINGS: dict[str, Noise | None] = {
    "none": None,
    "Gaussian, 0.15": GaussianNoise(0.15),
    "Gaussian, 0.08": GaussianNoise(0.08),
    "total variation, 0.05": LaplaceNoise(0.05),
}


def moving_photograph(side: int, frames: int) -> Tensor:
    """Return a clip ``(1, 3, frames, side, side)``: every frame averages 2 x 2 pixels, one pixel further to the right."""
    picture = torch.from_numpy(data.chelsea()).permute(2, 0, 1).float() / 127.5 - 1
    crops = [picture[:, 90 : 90 + 2 * side, 110 + k : 110 + k + 2 * side] for k in range(frames)]
    return F.avg_pool2d(torch.stack(crops), 2).movedim(0, 1)[None]


def coupled(seen: LinearOperator, y: Tensor, noise: Noise | None) -> tuple[LinearOperator, Tensor]:
    """Return the measurement joined with differences along the frames, which are measured as 0."""
    if noise is None:
        return seen, y
    alike = FiniteDifferences(seen.in_shape, axes=(1,), boundary="replicate", noise=noise)
    return stack([seen, alike]), torch.cat([y.flatten(1), y.new_zeros(len(y), torch.Size(alike.out_shape).numel())], 1)


def psnr(x: Tensor, truth: Tensor) -> float:
    return float(10 * (4 / (x - truth).square().mean()).log10())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=48, help="height and width of a frame in pixels")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--couplings", nargs="+", default=[*COUPLINGS], choices=[*COUPLINGS], metavar="COUPLING")
    options = parser.parse_args()
    clip, prior = moving_photograph(options.side, options.frames), load_prior("natural")
    shape = tuple(clip.shape[1:])
    seen = Mask(torch.rand(shape[1:], generator=torch.Generator().manual_seed(0)) < SHARE, shape, sigma_y=SIGMA)
    y, moves = seen.measure(clip, seed=0), clip.diff(dim=2)
    size = f"{options.frames} frames of {options.side} x {options.side} pixels"
    print(f"{size}, differences of {float(moves.square().mean().sqrt()):.3f}\n")
    print("| coupling | noise | PSNR of a sample, dB | of the mean, dB | error of the differences |")
    print("|---|---|---|---|---|")
    for name in options.couplings:
        op, joined = coupled(seen, y, COUPLINGS[name])
        sampler = PosteriorSampler(prior, op)
        for shared in (False, True):
            samples = sampler.run(joined, num_samples=options.samples, seed=0, shared_noise=shared).samples
            each = sum(psnr(sample, clip) for sample in samples) / len(samples)
            flicker = float((samples.diff(dim=3) - moves).square().mean().sqrt())
            noise = "shared" if shared else "of each frame"
            print(f"| {name} | {noise} | {each:.1f} | {psnr(samples.mean(0), clip):.1f} | {flicker:.3f} |", flush=True)


if __name__ == "__main__":
    main()
