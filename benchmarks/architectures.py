"""Compare network architectures at equal training time: ``python benchmarks/architectures.py FOLDER_OR_TAR ...``.

Every candidate is trained on the same images for the same processor time and then evaluated: denoising PSNR on held-out images,
seconds per forward pass at 256 x 256, and two properties that matter to samplers.

*Receptive field*: side of the smallest centered square that holds 95 % of the mean absolute gradient of a denoised pixel with
respect to the noisy image. At high noise it must be wide to fill large holes.

*Asymmetry*: ``|J v - J^T v| / |J v|`` of the denoiser's Jacobian for white ``v``. The Jacobian of an exact denoiser is
proportional to a covariance, hence symmetric; MMPS solves linear systems with it.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from invdiff.io.images import atomic_write
from invdiff.priors import NetworkPrior, load_prior
from invdiff.priors.load import has_bfloat16_units
from invdiff.training import VALIDATION_SIGMAS, Images, Settings, load_images, train

CANDIDATES: dict[str, dict[str, Any]] = {
    "4 resolutions": {"widths": (32, 64, 128, 192), "blocks": (1, 1, 1, 3)},
    "5 resolutions": {"widths": (32, 64, 128, 192, 256), "blocks": (1, 1, 1, 2, 2)},
    "4 resolutions, wider at the finest": {"widths": (64, 64, 128, 192), "blocks": (1, 1, 1, 3)},
}
FIELD_SIGMAS, ASYMMETRY_SIGMAS = (0.2, 1.0, 5.0), (0.05, 0.2, 1.0)
SIDE = 192  # pixels of the images the two properties are measured on
PROBED = 4  # images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, nargs="+", help="folders and tar archives of images")
    parser.add_argument("--minutes", type=float, default=5.0, help="processor time of each training (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=CANDIDATES, help="train only this candidate; repeatable")
    parser.add_argument(
        "--prior",
        action="append",
        default=[],
        help="also measure a trained prior (not its PSNR: it may have seen the images); repeatable",
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/architectures.json"), help="(default: %(default)s)")
    options = parser.parse_args()

    images, _ = load_images(options.sources, smallest=SIDE)
    _, held_out = images.split(16)
    clean = held_out.centres(SIDE)[:PROBED]
    done: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.only or CANDIDATES:
        key = f"{name}, {options.minutes:g} min"
        if key not in done:
            done[key] = trained(images, clean, minutes=options.minutes, **CANDIDATES[name])
            save(options.out, done)
    for source in options.prior:
        prior = load_prior(source, precision="float32")
        key = f"{prior.facts['name']} ({prior.describe()['sha256'][:12]})"
        if key not in done:
            done[key] = {"steps": prior.facts["steps"], "psnr": {}, **measured(source, clean)}
            save(options.out, done)
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"`python benchmarks/architectures.py SOURCES --minutes {options.minutes:g}`; {machine}.\n\n{table(done)}")


def save(path: Path, done: dict[str, Any]) -> None:
    with atomic_write(path) as part:
        part.write_text(json.dumps(done, indent=1) + "\n")


def trained(images: Images, clean: Tensor, *, minutes: float, **network: Any) -> dict[str, Any]:
    """Train a candidate for ``minutes`` of processor time and measure it."""
    bf16 = has_bfloat16_units(torch.device("cpu"))

    def run(steps: int, folder: str) -> tuple[float, dict[str, Any]]:
        started = time.process_time()
        facts = train(
            images,
            Path(folder) / f"{steps}.safetensors",
            Settings(steps=steps, bf16=bf16, validation=16, **network),
            report_every=steps,
            samples=False,
            progress=sys.stderr.isatty(),
        )
        return time.process_time() - started, facts

    with tempfile.TemporaryDirectory() as folder:
        seconds_per_step = (run(25, folder)[0] - run(5, folder)[0]) / 20
        steps = round(60 * minutes / seconds_per_step)
        _, facts = run(steps, folder)
        return {"steps": steps, "psnr": facts["psnr"], **measured(Path(folder) / f"{steps}.safetensors", clean)}


def measured(source: str | Path, clean: Tensor) -> dict[str, Any]:
    """Return size, speed, receptive field and asymmetry of a prior."""
    prior = load_prior(source, precision="float32")
    return {
        "parameters": sum(weight.numel() for weight in prior.net.parameters()),
        "forward float32": forward_seconds(prior),
        "forward bfloat16": forward_seconds(load_prior(source, precision="bfloat16")),
        "field": {str(sigma): receptive_field(prior, clean, sigma) for sigma in FIELD_SIGMAS},
        "asymmetry": {str(sigma): asymmetry(prior, clean, sigma) for sigma in ASYMMETRY_SIGMAS},
    }


def forward_seconds(prior: NetworkPrior) -> float:
    """Return the shortest of five forwards at 256 x 256."""
    x, times = torch.zeros(1, 3, 256, 256), []
    with torch.no_grad():
        for _ in range(6):
            started = time.perf_counter()
            prior.denoise(x, torch.tensor(0.5))
            times.append(time.perf_counter() - started)
    return min(times[1:])


def noisy(clean: Tensor, sigma: float) -> Tensor:
    return clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))


def receptive_field(prior: NetworkPrior, clean: Tensor, sigma: float) -> int:
    """Return the side in pixels of the centred square with 95 % of the gradient of the centre pixel."""
    x = noisy(clean, sigma).requires_grad_()
    centre = prior.denoise(x, torch.tensor(sigma))[..., SIDE // 2, SIDE // 2]
    (gradient,) = torch.autograd.grad(centre.sum(), x)
    rows, columns = torch.meshgrid(torch.arange(SIDE) - SIDE // 2, torch.arange(SIDE) - SIDE // 2, indexing="ij")
    distance = torch.maximum(rows.abs(), columns.abs())
    share = torch.bincount(distance.flatten(), gradient.abs().sum((0, 1)).flatten()).cumsum(0)
    radius = int((share < 0.95 * share[-1]).sum())
    return 2 * radius + 1


def asymmetry(prior: NetworkPrior, clean: Tensor, sigma: float) -> float:
    """Return the root mean square of J v - J^T v over that of J v."""
    x, t = noisy(clean, sigma), torch.tensor(sigma)
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    _, forward = torch.func.jvp(lambda x: prior.denoise(x, t), (x,), (v,))
    _, pull_back = torch.func.vjp(lambda x: prior.denoise(x, t), x)
    (backward,) = pull_back(v)
    return float((forward - backward).norm() / forward.norm())


def table(done: dict[str, Any]) -> str:
    rows = [
        [
            name,
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['steps']:,}",
            *(f"{row['psnr'][level]:.2f}" if row["psnr"] else "-" for level in map(str, VALIDATION_SIGMAS)),
            f"{1000 * row['forward float32']:.0f} / {1000 * row['forward bfloat16']:.0f}",
            " / ".join(str(value) for value in row["field"].values()),
            " / ".join(f"{100 * value:.1f}" for value in row["asymmetry"].values()),
        ]
        for name, row in done.items()
    ]
    headers = [
        "network",
        "weights",
        "steps",
        *(f"PSNR at {level}" for level in VALIDATION_SIGMAS),
        "forward, ms, float32 / bfloat16",
        f"receptive field, px, at sigma {' / '.join(map(str, FIELD_SIGMAS))}",
        f"asymmetry of J, %, at sigma {' / '.join(map(str, ASYMMETRY_SIGMAS))}",
    ]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
