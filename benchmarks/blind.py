"""Deblur photographs without knowing the kernel: ``python benchmarks/blind.py FOLDER --levin KERNELS.npz --json blind.json``.

Eleven kernels (the eight of Levin et al., 2009, a Gaussian, a disc and a line) blur photographs, with noise 0.01 on 0..1. The
blur is circular, or with ``--boundary valid`` the scene goes on beyond the border, as behind a camera. Each method finds a
kernel; the image is the mean of samples under it, by the same sampler for all methods (``exact-score``, 16 steps, circular; the
default method if the border was not recorded).

Figures: PSNR of the mean after the best whole-pixel shift, in the interior; of the mean under the true kernel; Levin's error
ratio, the squared error of the first over that of the second, of which 3 counts as success; the relative error of the kernel. A
finished case is kept in the JSON file and not computed again. ``--tables`` computes nothing and prints the tables.

``--calibrate COUNT`` simulates cases of random parameters instead, and counts how often intervals hold them.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from invdiff import PosteriorSampler
from invdiff.blind import BlindSampler, DiscFamily, FreeFamily, GaussianFamily, LineFamily, ParametricFamily
from invdiff.blind.simplex import trimmed
from invdiff.io.images import atomic_write, list_images, read_image
from invdiff.operators import Blur, defocus_kernel, gaussian_kernel, motion_kernel
from invdiff.posterior import MisfitWarning
from invdiff.priors import ScoreModel, load_prior

SIGMA = 0.02  # on [-1, 1]
REACH = 10  # largest shift, in pixels
MARGIN = 12  # pixels at the border that are not judged, because shifts carry them across it
SAMPLES = 4
FREE_SIZE = 31
SUCCESS = 3.0

KernelMethod = Callable[[ScoreModel, Tensor, str, str], Tensor]  # prior, y, label, boundary -> kernel


def kernels(levin: Path) -> dict[str, Tensor]:
    """Return the kernels by name, of sum 1."""
    found = {
        "gaussian 1.6": trimmed(gaussian_kernel(1.6)),
        "disc 3": defocus_kernel(3.0),
        "line 9, 30": motion_kernel(9, 30.0),
    }
    with np.load(levin) as archive:
        found |= {name.replace("levin", "levin "): torch.from_numpy(archive[name]).double() for name in sorted(archive.files)}
    return {name: kernel / kernel.sum() for name, kernel in found.items()}


def family_of(label: str) -> ParametricFamily | FreeFamily:
    """Return the family of a kernel, as a photographer would say: out of focus, moved, shaken."""
    families = {"gaussian": GaussianFamily, "disc": DiscFamily, "line": LineFamily}
    return families[label.split()[0]]() if label.split()[0] in families else FreeFamily(FREE_SIZE)


def by_family(score: ScoreModel, y: Tensor, label: str, boundary: str) -> Tensor:
    """Return the kernel found by :class:`BlindSampler` within the family of the true one."""
    return blind_kernel(score, y, family_of(label), boundary)


def by_free(score: ScoreModel, y: Tensor, label: str, boundary: str) -> Tensor:
    """Return the kernel found by :class:`BlindSampler` among all kernels."""
    return blind_kernel(score, y, FreeFamily(FREE_SIZE), boundary)


def blind_kernel(score: ScoreModel, y: Tensor, family: ParametricFamily | FreeFamily, boundary: str) -> Tensor:
    """Return the kernel of the estimate alone, without image samples."""
    return BlindSampler(score, family, sigma_y=SIGMA, boundary=boundary).find(y).estimate


def by_classical(score: ScoreModel, y: Tensor, label: str, boundary: str) -> Tensor:
    """Return the kernel of the classical method."""
    from blind_classical import classical  # type: ignore[import-not-found]

    kernel: Tensor = torch.as_tensor(classical(y, FREE_SIZE)).double()
    return kernel / kernel.sum()


METHODS: dict[str, KernelMethod] = {"family": by_family, "free": by_free, "classical": by_classical}


def photograph(path: Path, size: int) -> Tensor:
    """Return the center of a photograph, ``(1, 3, size, size)`` in [-1, 1]."""
    x = torch.from_numpy(read_image(path).pixels).float()
    top, left = (x.shape[-2] - size) // 2, (x.shape[-1] - size) // 2
    if top < 0 or left < 0 or len(x) != 3:
        raise ValueError(f"{path.name}: expected a color photograph of at least {size} x {size} pixels, got {tuple(x.shape)}.")
    return x[None, :, top : top + size, left : left + size].contiguous()


def measured(x: Tensor, kernel: Tensor, boundary: str, seed: int) -> Tensor:
    """Return the blurred and noisy photograph."""
    blurred = Blur(tuple(x.shape[1:]), kernel, boundary=boundary)(x)
    return blurred + SIGMA * torch.randn(blurred.shape, generator=torch.Generator().manual_seed(seed))


def mean_under(score: ScoreModel, y: Tensor, kernel: Tensor, boundary: str) -> Tensor:
    """Return the mean of the samples of the part that ``y`` shows."""
    (rows, columns), (height, width) = kernel.shape, y.shape[-2:]
    if boundary == "circular":
        op = Blur(tuple(y.shape[1:]), kernel, boundary=boundary, sigma_y=SIGMA)
        sampler = PosteriorSampler(score, op, method="exact-score", steps=16, rule="matched", ratio_max=10.0)
        return sampler.run(y, num_samples=SAMPLES).mean
    op = Blur((y.shape[1], height + rows - 1, width + columns - 1), kernel, boundary=boundary, sigma_y=SIGMA)
    mean = PosteriorSampler(score, op).run(y, num_samples=SAMPLES).mean
    top, left = (rows - 1) // 2, (columns - 1) // 2
    return mean[..., top : top + height, left : left + width]


def judged(found: Tensor, x: Tensor) -> float:
    """Return the least mean squared error in the interior over whole-pixel shifts."""
    inner = x[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    height, width = inner.shape[-2:]
    errors = []
    for down in range(-REACH, REACH + 1):
        for right in range(-REACH, REACH + 1):
            top, left = MARGIN + down, MARGIN + right
            errors.append(float((found[..., top : top + height, left : left + width] - inner).square().mean()))
    return min(errors)


def kernel_error(found: Tensor, true: Tensor) -> float:
    """Return the relative error of a kernel after the best whole-pixel shift."""
    side = 2 * max(*found.shape, *true.shape)
    spectra = [torch.fft.rfft2(kernel.double(), s=(side, side)) for kernel in (found, true)]
    product = torch.fft.irfft2(spectra[0] * spectra[1].conj(), s=(side, side)).max()
    squares = found.double().square().sum() + true.double().square().sum() - 2 * product
    return float((squares.clamp(min=0) / true.double().square().sum()).sqrt())


def psnr(mse: float) -> float:
    return 10 * math.log10(4 / mse)


def scene(path: Path, kernel: Tensor, size: int, boundary: str) -> tuple[Tensor, Tensor]:
    """Return the part of a photograph that its blurred picture shows, and that picture."""
    rows, columns = kernel.shape
    x = photograph(path, size if boundary == "circular" else size + max(rows, columns) - 1)
    y = measured(x, kernel, boundary, seed=2)
    if boundary == "valid":
        top, left = (rows - 1) // 2, (columns - 1) // 2
        x = x[..., top : top + y.shape[-2], left : left + y.shape[-1]]
    return x, y


def run_case(
    score: ScoreModel, path: Path, label: str, kernel: Tensor, size: int, methods: Sequence[str], boundary: str
) -> dict[str, Any]:
    """Return the figures of one photograph under one kernel."""
    x, y = scene(path, kernel, size, boundary)
    known = judged(mean_under(score, y, kernel, boundary), x)
    row: dict[str, Any] = {"photograph": path.stem.split("_")[0], "kernel": label, "size": size, "boundary": boundary}
    row |= {"blurred": psnr(judged(y, x)), "known": psnr(known), "methods": {}}
    for method in methods:
        if method == "free" and "levin" in label:
            continue  # The same as "family".
        started = time.process_time()
        found = METHODS[method](score, y, label, boundary)
        seconds = time.process_time() - started
        mse = judged(mean_under(score, y, trimmed(found), boundary), x)
        row["methods"][method] = {
            "psnr": psnr(mse),
            "ratio": mse / known,
            "kernel": kernel_error(found, kernel),
            "seconds": seconds,
        }
    return row


def calibration_case(score: ScoreModel, path: Path, number: int, size: int) -> dict[str, Any]:
    """Return the true parameters, estimates and intervals of one simulated case."""
    generator = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(number,)))
    family = (GaussianFamily(), DiscFamily(), GaussianFamily(), DiscFamily(), LineFamily())[number % 5]
    ranges = {"sigma": (0.7, 3.0), "radius": (1.2, 5.0), "length": (4.0, 16.0)}
    low, high = ranges[family.names[0]]
    theta = (low * (high / low) ** generator.uniform(),)
    if "angle" in family.names:
        theta = (*theta, generator.uniform(0, 180))
    sigma_y = 0.01 * 4 ** generator.uniform()
    x = torch.from_numpy(read_image(path).pixels).float()
    top, left = (int(generator.integers(0, side - size + 1)) for side in x.shape[-2:])
    x = x[None, :, top : top + size, left : left + size]
    blurred = Blur(tuple(x.shape[1:]), trimmed(family.kernel(theta)))(x)
    y = blurred + sigma_y * torch.randn(blurred.shape, generator=torch.Generator().manual_seed(number))
    started = time.process_time()
    refused = ""
    try:
        found = BlindSampler(score, family, sigma_y=None, boundary="circular").find(y)
    except ValueError as error:  # The noise cannot be told from the texture: a user is asked for it.
        refused = str(error)
        found = BlindSampler(score, family, sigma_y=sigma_y, boundary="circular").find(y)
    row: dict[str, Any] = {
        "case": number,
        "photograph": path.stem,
        "notes": found.notes,
        "sigma_y": sigma_y,
        "refused": refused,
    }
    row |= {"seconds": time.process_time() - started, "std": float(x.std()), "parameters": {}}
    for name, true in zip((*family.names, "sigma_y"), (*theta, sigma_y), strict=True):
        if name not in found.parameters:
            continue
        draws = found.parameters[name]
        if name == "angle":
            true = float(draws.median()) + (true - float(draws.median()) + 90) % 180 - 90
        low, high = (float(draws.quantile(q)) for q in (0.05, 0.95))
        row["parameters"][name] = {"true": true, "estimate": float(draws.median()), "low": low, "high": high}
    return row


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Return the tables of the finished cases in Markdown."""
    text = []
    for size, boundary in sorted({(row["size"], row["boundary"]) for row in rows}):
        chosen = [row for row in rows if (row["size"], row["boundary"]) == (size, boundary)]
        methods = [m for m in METHODS if any(m in row["methods"] for row in chosen)]
        heads = ["", "blurred", "kernel known", *(f"{m}: PSNR, ratio, kernel error" for m in methods)]
        lines = []
        for row in chosen:
            cells = [row["methods"].get(m) for m in methods]
            shown = ["-" if c is None else f"{c['psnr']:.1f}, {c['ratio']:.1f}, {c['kernel']:.2f}" for c in cells]
            lines.append([f"{row['photograph']}, {row['kernel']}", f"{row['blurred']:.1f}", f"{row['known']:.1f}", *shown])
        text.append(f"{size} pixels, {boundary}:\n\n" + tabulate(lines, heads, tablefmt="github", disable_numparse=True))
        summary = []
        for group, member in (("families", lambda k: "levin" not in k), ("camera shake", lambda k: "levin" in k)):
            for m in methods:
                cells = [(row["methods"][m], row) for row in chosen if m in row["methods"] and member(row["kernel"])]
                if cells:
                    ratios = [c["ratio"] for c, _ in cells]
                    summary.append(
                        [
                            f"{group}, {m}",
                            len(cells),
                            f"{sum(r <= SUCCESS for r in ratios)} of {len(cells)}",
                            f"{np.median(ratios):.2f}",
                            f"{np.mean([c['psnr'] - row['known'] for c, row in cells]):.2f}",
                            f"{np.mean([c['psnr'] - row['blurred'] for c, row in cells]):+.2f}",
                            f"{np.mean([c['seconds'] for c, _ in cells]):.0f}",
                        ]
                    )
        heads = ["", "cases", "ratio at most 3", "median ratio", "dB against known", "dB against blurred", "CPU seconds"]
        text.append(tabulate(summary, heads, tablefmt="github", disable_numparse=True))
    return "\n\n".join(text)


def calibration_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the coverage of the 90 % intervals in Markdown."""
    lines = []
    for name in ("sigma", "radius", "length", "angle", "sigma_y"):
        cells = [row["parameters"][name] for row in rows if name in row["parameters"]]
        if cells:
            held = sum(c["low"] <= c["true"] <= c["high"] for c in cells)
            errors = [abs(c["estimate"] - c["true"]) / (1 if name == "angle" else c["true"]) for c in cells]
            widths = [(c["high"] - c["low"]) / (1 if name == "angle" else c["true"]) for c in cells]
            lines.append([name, len(cells), f"{held / len(cells):.0%}", f"{np.median(errors):.3f}", f"{np.median(widths):.3f}"])
    kernel = [c for row in rows for n, c in row["parameters"].items() if n != "sigma_y"]
    if kernel:
        held = sum(c["low"] <= c["true"] <= c["high"] for c in kernel)
        lines.append(["all of the kernel", len(kernel), f"{held / len(kernel):.0%}", "", ""])
    heads = ["parameter", "cases", "90 % intervals hold it", "median error", "median width"]
    return tabulate(lines, heads, tablefmt="github", disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="color photographs new to the prior")
    parser.add_argument("--levin", type=Path, help="the kernels of Levin et al., an .npz file")
    parser.add_argument("--json", type=Path, required=True, help="file of the finished cases")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128], help="(default: %(default)s)")
    parser.add_argument("--boundary", default="circular", choices=["circular", "valid"], help="(default: %(default)s)")
    parser.add_argument(
        "--photographs", nargs="+", default=["kingfisher", "lighthouse", "parrots"], help="(default: %(default)s)"
    )
    parser.add_argument("--methods", nargs="+", default=["family"], choices=list(METHODS), help="(default: %(default)s)")
    parser.add_argument("--kernels", nargs="+", help="names of kernels (default: all)")
    parser.add_argument("--calibrate", type=int, default=0, metavar="COUNT", help="simulate so many cases instead")
    parser.add_argument("--tables", action="store_true", help="print the tables of the finished cases")
    parser.add_argument("--prior", default="natural", help="(default: %(default)s)")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(options.json.read_text()) if options.json.exists() else []
    if not options.tables:
        warnings.simplefilter("ignore", MisfitWarning)
        torch.set_num_threads(1)
        score = load_prior(options.prior)
        paths = list_images(options.folder)
        if options.calibrate:
            size = options.sizes[0]
            paths = [path for path in paths if _is_color(path, size)]
            for number in tqdm(range(options.calibrate), unit=" cases", disable=None):
                if not any(row["case"] == number for row in rows):
                    rows.append(calibration_case(score, paths[number % len(paths)], number, size))
                    _keep(options.json, rows)
        else:
            cases = [
                (size, label, kernel, path)
                for size in options.sizes
                for label, kernel in kernels(options.levin).items()
                for path in paths
                if path.stem.split("_")[0] in options.photographs and (not options.kernels or label in options.kernels)
            ]
            for size, label, kernel, path in tqdm(cases, unit=" cases", disable=None):
                key = path.stem.split("_")[0], label, size, options.boundary
                old = next(
                    (row for row in rows if (row["photograph"], row["kernel"], row["size"], row["boundary"]) == key), None
                )
                missing = [m for m in options.methods if old is None or m not in old["methods"]]
                if old is not None and not [m for m in missing if not (m == "free" and "levin" in label)]:
                    continue
                row = run_case(score, path, label, kernel, size, missing, options.boundary)
                if old is None:
                    rows.append(row)
                else:
                    old["methods"] |= row["methods"]
                _keep(options.json, rows)
    print(calibration_table(rows) if options.calibrate else tables(rows))
    print(f"\n{platform.machine()}, torch {torch.__version__}")


def _is_color(path: Path, size: int) -> bool:
    pixels = read_image(path).pixels
    return len(pixels) == 3 and min(pixels.shape[1:]) >= size


def _keep(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
