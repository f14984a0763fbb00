r"""Compare the error that a prior predicts with its true error: ``python benchmarks/variance.py FOLDER``.

The spread of posterior samples relies on Tweedie's covariance, :math:`V_t = (\sigma_t^2 / \alpha_t)\, \partial \hat x_0 /
\partial x_t`. For a perfect prior its trace is the expected squared error of the denoiser. Both are measured on photographs at
several noise levels, the trace with random signs: a ratio below 1 makes samples too narrow, a ratio above 1 too wide.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch
from tabulate import tabulate
from tqdm import tqdm

from invdiff.io.images import list_images, read_image
from invdiff.methods.denoised import Denoised
from invdiff.priors import ScoreModel, load_prior


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="color photographs new to the prior")
    parser.add_argument(
        "--size", type=int, default=256, help="largest side; center crop of larger images (default: %(default)s)"
    )
    parser.add_argument(
        "--ratios", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.5, 1, 2, 5], help="noise-to-signal ratios"
    )
    parser.add_argument("--draws", type=int, default=3, help="draws of noise and signs (default: %(default)s)")
    parser.add_argument("--prior", default="natural", help="(default: %(default)s)")
    options = parser.parse_args()

    score = load_prior(options.prior)
    photographs = []
    for path in list_images(options.folder):
        x = torch.from_numpy(read_image(path).pixels).float()
        height, width = (min(options.size, side) for side in x.shape[-2:])
        top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
        if len(x) == 3:
            photographs.append(x[None, :, top : top + height, left : left + width])
    lines = []
    with tqdm(total=len(options.ratios) * len(photographs), unit=" photographs", disable=None) as bar:
        for ratio in options.ratios:
            pairs = []
            for number, x in enumerate(photographs):
                generator = torch.Generator().manual_seed(number)
                pairs.append(torch.tensor([error_and_claim(score, x, ratio, generator) for _ in range(options.draws)]).mean(0))
                bar.update()
            error, claim = torch.stack(pairs).unbind(1)
            shares = claim / error
            lines.append(
                [ratio, error.mean().sqrt(), claim.mean().sqrt(), shares.mean(), f"{shares.min():.2f} to {shares.max():.2f}"]
            )
    headers = ["noise over signal", "error, RMS", "claimed, RMS", "variance claimed / error, mean", "over the photographs"]
    command = f"python benchmarks/variance.py FOLDER --size {options.size} --draws {options.draws}"
    what = f"{len(photographs)} photographs, prior {score.describe()['sha256'][:12]} in {score.autocast or torch.float32}"
    print(f"`{command}`; {what}; {platform.machine()}, torch {torch.__version__}.\n")
    print(tabulate(lines, headers, tablefmt="github", floatfmt=("g", ".3f", ".3f", ".2f", "")))


def error_and_claim(score: ScoreModel, x: torch.Tensor, ratio: float, generator: torch.Generator) -> tuple[float, float]:
    r"""Return the mean squared error of the denoiser and :math:`\operatorname{tr} V_t`, both per number of ``x``."""
    t = score.schedule.time(ratio)
    alpha_t, sigma_t = score.levels(t, x)
    at = Denoised(score, alpha_t * x + sigma_t * torch.randn(x.shape, generator=generator), t, differentiable=True)
    signs = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
    return float((at.x0_hat - x).square().mean()), float((signs * at.covariance(signs)).mean())


if __name__ == "__main__":
    main()
