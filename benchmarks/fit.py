"""Measure the cost of applying a prior to other image sizes, through windows, and to other numbers of channels.

    python benchmarks/fit.py FOLDER [--prior natural]

The prior must be a color prior for any image size, so that whole images are available for comparison. First table: a noisy
photograph is denoised whole and through windows of 256 pixels; largest difference and root mean square, in units of the range
of images, and the largest jump between neighboring pixels that is absent from the whole. Second table: gray photographs,
denoised by ``priors.Grey``, by the prior at their noise level, and by ``priors.PerChannel`` of ``Grey`` in color; PSNR in dB.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor

from invdiff.io.images import read_image
from invdiff.metrics import psnr
from invdiff.priors import Gray, PerChannel, ScoreModel, Tiled, load_prior

LEVELS = (0.05, 0.3, 1.0, 5.0, 20.0, 80.0)
OVERLAPS = (32, 64, 96, 128, 160, 192)
NOISE = (15 / 127.5, 25 / 127.5, 50 / 127.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prior", default="natural", help="(default: %(default)s)")
    options = parser.parse_args()
    score = load_prior(options.prior, precision="float32")
    pictures = [read_image(path).pixels for path in sorted(options.folder.iterdir()) if path.suffix in (".png", ".jpg")]
    photographs = [torch.from_numpy(pixels).float()[None] for pixels in pictures if len(pixels) == 3]
    with torch.inference_mode():
        whole = next(x for x in photographs if min(x.shape[2:]) >= 448)[..., :448, :448]
        print(tabulate(windows(score, whole), ("noise", *(f"overlap {o}" for o in OVERLAPS)), tablefmt="pipe"), end="\n\n")
        headers = ("noise, of 255", "Grey", "at the level of the noise", "colours", "each channel as Grey")
        print(tabulate(channels(score, photographs), headers, tablefmt="pipe", floatfmt=".2f"))


def noisy(x: Tensor, sigma: float) -> Tensor:
    return x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def windows(score: ScoreModel, x: Tensor) -> list[list[str]]:
    """Return rows of the first table. Windows of 256 in 448 pixels: they begin at multiples of the network's stride."""
    rows = []
    for level in LEVELS:
        x_t, t = noisy(x, level), torch.tensor(level)
        expected, row = score.denoise(x_t, t), [f"{level:g}"]
        for overlap in OVERLAPS:
            gap = (Tiled(score, tile=256, overlap=overlap).denoise(x_t, t) - expected) / 2
            jump = max(float(gap.diff(dim=axis).abs().max()) for axis in (-1, -2))
            row.append(f"{float(gap.abs().max()):.0e}, {float(gap.square().mean().sqrt()):.0e}, {jump:.0e}")
        rows.append(row)
    return rows


def channels(score: ScoreModel, photographs: list[Tensor]) -> list[list[float]]:
    """Return rows of the second table, means over the photographs."""
    grey = Gray(score)
    rows = []
    for sigma in NOISE:
        t, found = torch.tensor(sigma), []
        for photograph in photographs:
            x = photograph[..., :256, :256]
            g = x.mean(1, keepdim=True)
            g_t, x_t = noisy(g, sigma), noisy(x, sigma)
            repeated = score.denoise(g_t.expand(-1, 3, -1, -1), t).mean(1, keepdim=True)
            pairs = [
                (grey.denoise(g_t, t), g),
                (repeated, g),
                (score.denoise(x_t, t), x),
                (PerChannel(grey).denoise(x_t, t), x),
            ]
            found.append([float(psnr(ours, truth)) for ours, truth in pairs])
        rows.append([127.5 * sigma, *torch.tensor(found).mean(0).tolist()])
    return rows


if __name__ == "__main__":
    main()
