"""Photographs degraded and restored: ``python benchmarks/images.py FOLDER --mask MASK --kernel KERNEL``.

Mean PSNR of the posterior mean against scikit-image's classical restorers on the same measurements: biharmonic inpainting
under a text mask, of pixels missing at random and of a square hole, Wiener and Richardson-Lucy deconvolution of two blurs with
noise, bicubic enlargement. The classical ones get the best parameter of a list, chosen with the truth at hand for the mean of
the whole table; ours runs as ``invdiff solve`` runs it. With ``--methods`` every method named (or ``all``) runs too, at its own
settings but for ``--steps`` and the level to start from, and a second table compares them. The tables are printed; finished
pictures are kept in the JSON file and not computed again with the same settings. ``--tables`` computes nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import restoration
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

import invdiff
from invdiff.images import atomic_write, list_images, read_image, read_kernel, read_mask
from invdiff.methods import METHODS
from invdiff.metrics import psnr, ssim
from invdiff.operators import Operator, gaussian_kernel
from invdiff.priors import load_prior
from invdiff.problems import PROBLEMS, Deblur, Inpaint, Problem, SuperResolution
from invdiff.report import comparison_panel

Array = NDArray[np.float64]
ROWS = ("inpaint text", "inpaint random", "inpaint hole", "deblur Levin", "deblur Gaussian", "sr x2", "sr x4")
OURS = "as `solve` runs it"
MISSING = 0.7  # share of the pixels of "inpaint random"
HOLE = 64  # pixels of the side of "inpaint hole"
GAUSSIAN = 2.0  # standard deviation of "deblur Gaussian", in pixels
WIENER = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # regularisation, skimage's "balance"
RICHARDSON_LUCY = (3, 5, 10, 20, 40)  # iterations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs")
    parser.add_argument("--mask", type=Path, required=True, help="text mask, white = fill; tiled to each photograph's size")
    parser.add_argument("--kernel", required=True, help="camera-shake kernel: image, .npy, or .npz:name")
    parser.add_argument("--size", type=int, default=256, help="largest side; the centre is taken (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument(
        "--only", action="append", choices=ROWS, metavar="ROW", help=f"repeatable: {', '.join(ROWS)} (default: all)"
    )
    parser.add_argument(
        "--methods", nargs="+", choices=["all", *METHODS], metavar="METHOD", default=[], help="run these as well"
    )
    parser.add_argument("--steps", type=int, help="of the methods (default: each one's own)")
    parser.add_argument("--photographs", type=int, help="take the first so many (default: all)")
    parser.add_argument("--prior", default="natural", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/images.json"), help="(default: %(default)s)")
    parser.add_argument("--tables", action="store_true", help="compute nothing, print the tables of what is there")
    parser.add_argument("--panels", type=Path, help="folder for comparison panels")
    options = parser.parse_args()
    if options.samples < 2:
        parser.error("--samples must be at least 2: one has no spread")

    score = load_prior(options.prior)
    mask, kernel = read_mask(options.mask), read_kernel(options.kernel)
    store = options.out
    store.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "prior": score.describe()["sha256"],
        "mask": hashlib.sha256(mask.tobytes()).hexdigest(),
        "kernel": hashlib.sha256(kernel.tobytes()).hexdigest(),
        "size": options.size,
        "samples": options.samples,
    }
    done: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    if done.get("settings") != settings:
        done = {"settings": settings, "rows": {}}

    chosen = [row for row in ROWS if row in (options.only or ROWS)]
    photographs = list_images(options.folder)[: options.photographs]
    methods = list(METHODS) if "all" in options.methods else options.methods

    def key(row: str, path: Path, method: str) -> str:
        settings_of = PROBLEMS[row.split()[0]].recommended if method == OURS else {"steps": options.steps or "of its own"}
        return ", ".join([f"{row}/{path.stem}/{method}", *(f"{name} {value}" for name, value in settings_of.items())])

    cells = list(itertools.product(photographs, chosen, [OURS, *methods]))
    missing = [] if options.tables else [cell for cell in cells if key(cell[1], cell[0], cell[2]) not in done["rows"]]
    with tqdm(total=len(missing), unit=" pictures", disable=None) as bar:
        for path, group in itertools.groupby(missing, key=lambda cell: cell[0]):
            clean = centre(torch.from_numpy(read_image(path).pixels).float(), options.size)
            clean = clean.expand(3, -1, -1)[None] if len(clean) == 1 else clean[None]
            available = tasks(mask, kernel, clean)
            for _, row, method in group:
                bar.set_postfix_str(f"{path.stem}, {row}, {method}")
                problem, noise, classical = available[row]
                if method == OURS:
                    panel = options.panels / f"{path.stem}-{row.replace(' ', '-')}.png" if options.panels else None
                    figures = solve(score, problem, noise, classical, clean, options.samples, panel)
                else:
                    settings_of = {"method": method, "ratio_max": problem.recommended["ratio_max"]}
                    settings_of |= {"steps": options.steps} if options.steps else {}
                    figures = compare(score, problem, noise, clean, options.samples, settings_of)
                done["rows"][key(row, path, method)] = figures
                with atomic_write(store) as part:
                    part.write_text(json.dumps(done, indent=1) + "\n")
                bar.update()

    def found(row: str, method: str) -> list[dict[str, Any]]:
        return [done["rows"][name] for path in photographs if (name := key(row, path, method)) in done["rows"]]

    table = summarise({row: ours for row in chosen if (ours := found(row, OURS))})
    arguments = f"--size {options.size} --samples {options.samples}" + "".join(f' --only "{row}"' for row in options.only or ())
    arguments += "" if options.photographs is None else f" --photographs {options.photographs}"
    what = f"{len(photographs)} photographs, prior {settings['prior'][:12]}, network in {score.autocast or torch.float32}"
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    command = f"python benchmarks/images.py FOLDER --mask MASK --kernel KERNEL {arguments}"
    if methods:
        command += f" --methods {' '.join(options.methods)}" + (f" --steps {options.steps}" if options.steps else "")
        table += "\n\n" + side_by_side(
            {(method, row): found(row, method) for method in [OURS, *methods] for row in chosen}, chosen
        )
    print(f"`{command}`; {what}; {machine}.\n\n{table}")


def tasks(
    mask: NDArray[np.bool_], kernel: Array, clean: Tensor
) -> Mapping[str, tuple[Problem, float, Mapping[str, Callable[[Array], Array]]]]:
    """Return, per row of the table: the problem, its noise on the 0..1 scale, and the restorers of (H, W, C) arrays."""
    height, width = clean.shape[-2:]
    known = np.tile(mask, (-(-height // mask.shape[0]), -(-width // mask.shape[1])))[:height, :width]
    scattered = np.random.default_rng([height, width]).random((height, width)) >= MISSING  # of the size alone
    balances = {f"Wiener, balance {b:g}": deconvolve(lambda y, b=b: restoration.wiener(y, kernel, b), kernel) for b in WIENER}
    counts = {
        f"Richardson-Lucy, {n} steps": deconvolve(lambda y, n=n: restoration.richardson_lucy(y.clip(0, 1), kernel, n), kernel)
        for n in RICHARDSON_LUCY
    }
    blur = np.asarray(gaussian_kernel(GAUSSIAN))
    whole = np.ones((height, width), dtype=bool)
    top, left = (height - HOLE) // 2, (width - HOLE) // 2
    whole[top : top + HOLE, left : left + HOLE] = False
    spread = {f"Wiener, balance {b:g}": deconvolve(lambda y, b=b: restoration.wiener(y, blur, b), blur) for b in WIENER}
    return {
        "inpaint text": (Inpaint(known), 0.0, {"biharmonic": lambda y: biharmonic(y, known)}),
        "inpaint random": (Inpaint(scattered), 0.0, {"biharmonic": lambda y: biharmonic(y, scattered)}),
        "inpaint hole": (Inpaint(whole), 0.0, {"biharmonic": lambda y: biharmonic(y, whole)}),
        "deblur Levin": (Deblur(kernel, boundary="reflect"), 0.02, balances | counts),
        "deblur Gaussian": (Deblur(gaussian_kernel(GAUSSIAN), boundary="reflect"), 0.02, spread),
        "sr x2": (SuperResolution(2), 0.0, {"bicubic": lambda y: bicubic(y, 2)}),
        "sr x4": (SuperResolution(4), 0.0, {"bicubic": lambda y: bicubic(y, 4)}),
    }


def biharmonic(y: Array, known: NDArray[np.bool_]) -> Array:
    restored: Array = restoration.inpaint_biharmonic(y, ~known, channel_axis=-1)
    return restored


def deconvolve(restore: Callable[[Array], Array], kernel: Array) -> Callable[[Array], Array]:
    """Return ``restore`` for colours, on the measurement mirrored beyond its border, which both classical methods need."""
    rows, columns = kernel.shape

    def channel(y: Array) -> Array:
        padded = np.pad(y, ((rows, rows), (columns, columns)), mode="symmetric")
        return restore(padded)[rows:-rows, columns:-columns]

    return lambda y: np.stack([channel(y[..., c]) for c in range(y.shape[-1])], -1)


def bicubic(y: Array, factor: int) -> Array:
    size = (y.shape[1] * factor, y.shape[0] * factor)
    channels = [
        Image.fromarray(y[..., c].astype(np.float32)).resize(size, Image.Resampling.BICUBIC) for c in range(y.shape[-1])
    ]
    return np.stack([np.asarray(channel, dtype=np.float64) for channel in channels], -1)


def solve(
    score: invdiff.priors.ScoreModel,
    problem: Problem,
    noise: float,
    classical: Mapping[str, Callable[[Array], Array]],
    clean: Tensor,
    samples: int,
    panel: Path | None,
) -> dict[str, Any]:
    """Restore one photograph by everything that can, and return the figures."""
    clean = problem.fit(clean)
    op = problem.operator((clean.shape[1], clean.shape[2], clean.shape[3]), sigma_y=2 * noise)
    y = op.measure(clean, seed=0)
    unit = ((y[0] + 1) / 2).double().permute(1, 2, 0).numpy()
    figures: dict[str, Any] = {}
    restored = {}
    for name, restore in classical.items():
        restored[name] = torch.from_numpy(restore(unit)).permute(2, 0, 1).float()[None] * 2 - 1
        figures[name] = round(float(psnr(restored[name], clean)), 3)
    results, found = sampled(score, problem, op, y, clean, samples, problem.recommended)
    mean = results.mean(0, keepdim=True)
    best = max(restored, key=lambda name: figures[name])
    if panel is not None:
        panel.parent.mkdir(parents=True, exist_ok=True)
        tiles = {"truth": clean, "measured": problem.preview(y), best: restored[best], "mean": mean, "sample": results[:1]}
        comparison_panel(panel, {title: tile[0].numpy() for title, tile in tiles.items()}, std=results.std(0).numpy())
    return figures | found


def compare(
    score: invdiff.priors.ScoreModel,
    problem: Problem,
    noise: float,
    clean: Tensor,
    samples: int,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Restore one photograph by one method, and return the figures, or why there are none."""
    clean = problem.fit(clean)
    op = problem.operator((clean.shape[1], clean.shape[2], clean.shape[3]), sigma_y=2 * noise)
    try:
        return sampled(score, problem, op, op.measure(clean, seed=0), clean, samples, settings)[1]
    except invdiff.DivergenceError as error:
        return {"why": "diverged", "message": str(error)}
    except ValueError as error:
        return {"why": "-", "message": str(error)}


def sampled(
    score: invdiff.priors.ScoreModel,
    problem: Problem,
    op: Operator,
    y: Tensor,
    clean: Tensor,
    samples: int,
    settings: Mapping[str, Any],
) -> tuple[Tensor, dict[str, Any]]:
    """Return the restored pictures and their figures."""
    started = time.monotonic()
    post = invdiff.PosteriorSampler(score, op, **settings).run(y, num_samples=samples, seed=0)
    results = problem.finish(post.samples[:, 0], y.expand(samples, *y.shape[1:]), op)
    mean = results.mean(0, keepdim=True)
    return results, {
        "mean": round(float(psnr(mean, clean)), 3),
        "sample": round(float(psnr(results, clean.expand_as(results)).mean()), 3),
        "SSIM of the mean": round(float(ssim(mean, clean)), 4),
        "spread / error": round(float(results.std(0).square().mean().sqrt() / (mean - clean).square().mean().sqrt()), 3),
        "misfit": round(float(post.residual.mean()) / post.dof, 3) if op.sigma_y else None,
        "NFE": post.nfe,
        "VJP": post.nvjp,
        "seconds": round(time.monotonic() - started, 1),
    }


def side_by_side(cells: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]], rows: Sequence[str]) -> str:
    """Return the table of methods: PSNR of the mean / of single samples, SSIM, for every problem; what a sample costs."""
    lines: dict[str, list[str]] = {}
    for (method, _), found in cells.items():
        lines.setdefault(method, [])
        reasons = [cell["why"] for cell in found if "why" in cell]
        if reasons or not found:
            lines[method].append(reasons[0] if reasons else "")
            continue
        mean, sample, similar = (np.mean([cell[name] for cell in found]) for name in ("mean", "sample", "SSIM of the mean"))
        lines[method].append(f"{mean:.1f} / {sample:.1f}, {similar:.2f}")
    for method, line in lines.items():
        ran = [cell for row in rows for cell in cells[method, row] if "why" not in cell]
        for name in ("NFE", "VJP", "seconds"):
            values = [cell[name] for cell in ran]
            low, high = (min(values), max(values)) if values else (0, 0)
            line.append("-" if not values else f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} to {high:.0f}")
    headers = ["PSNR in dB of the mean / of samples, SSIM", *rows, "NFE", "VJP", "seconds"]
    return tabulate([[method, *line] for method, line in lines.items()], headers, tablefmt="github", disable_numparse=True)


def summarise(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the Markdown table: means over the photographs, the classical restorers at their best parameter."""
    ours = ("mean", "sample", "SSIM of the mean", "spread / error", "misfit", "NFE", "VJP", "seconds")
    lines = []
    for name, mine in rows.items():
        families: dict[str, tuple[float, str]] = {}
        for restorer in (key for key in mine[0] if key not in ours):
            family = restorer.split(",")[0]
            families[family] = max(
                families.get(family, (-np.inf, "")), (float(np.mean([row[restorer] for row in mine])), restorer)
            )
        values = [[row[column] for row in mine] for column in ours]
        figures = [None if column[0] is None else float(np.mean(column)) for column in values]
        classical = "; ".join(f"{restorer} {value:.2f}" for value, restorer in families.values())
        ahead = sum(row["mean"] > max(row[restorer] for _, restorer in families.values()) for row in mine)
        lines.append([name, classical, *figures[:2], f"{ahead} of {len(mine)}", *figures[2:]])
    headers = [
        "problem",
        "classical, PSNR in dB",
        "mean of the samples",
        "single samples",
        "ahead on",
        "SSIM of the mean",
        "spread / error",
        "misfit / expected",
        "NFE",
        "VJP",
        "seconds",
    ]
    formats = ("", "", ".2f", ".2f", "", ".3f", ".2f", ".2f", ".0f", ".0f", ".0f")
    return tabulate(lines, headers, tablefmt="github", floatfmt=formats, missingval="-")


def centre(x: Tensor, size: int) -> Tensor:
    height, width = (min(size, side) for side in x.shape[-2:])
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


if __name__ == "__main__":
    main()
