"""Run every ready-made task on an image, as ``invdiff solve`` does: ``python benchmarks/problems.py``.

Reports the PSNR of the measurement (converted to an image as in the comparison panel), of the posterior mean and of single
samples, the squared misfit relative to its expectation under the noise, and the time. With ``--methods`` those methods run too,
with their own settings except for the initial noise level; cells that a method refuses are left empty. The image is
scikit-image's cat, for MRI and CT its phantom, or any file. Finished runs are kept in the JSON file and not computed again with
the same settings. ``--gallery`` writes an image of all tasks, ``--tables`` computes nothing.
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

import numpy as np
import torch
from PIL import Image, ImageOps
from skimage import data
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from invdiff import PosteriorSampler
from invdiff.io.images import atomic_write
from invdiff.methods.samplers import DivergenceError
from invdiff.metrics import psnr
from invdiff.priors import load_prior
from invdiff.problems import PROBLEMS
from invdiff.restoration import Measured, read
from invdiff.restoration.sampling import sampler_arguments

HERE = Path(__file__).parent
MASK = HERE.parent / "examples" / "mask.png"

# Task to the options of the command line that say what happens to the picture.
CASES: dict[str, dict[str, Any]] = {
    "inpaint": {},
    "outpaint": {"margin": 12},
    "denoise": {"noise": "0.1"},
    "denoise, 20 photons": {"noise": "poisson:20"},
    "deblur": {"kernel": "gaussian:2", "noise": "0.02"},
    "defocus": {"radius": 4.0, "noise": "0.02"},
    "motion-deblur": {"length": 15, "angle": 30.0, "noise": "0.02"},
    "sr": {"factor": 4, "noise": "0.01"},
    "colorize": {"noise": "0.01"},
    "demosaic": {"pattern": "RGGB", "noise": "0.01"},
    "declip": {"clip_high": 0.6, "noise": "0.01"},
    "dequantize": {"levels": 6},
    "dejpeg": {"jpeg_quality": 10},
    "compressed-sensing": {"ratio": 0.25, "noise": "0.02"},
    "phase-retrieval": {"codes": 2, "noise": "0.02"},
    "phase-retrieval, zeros": {"oversampling": 2.0, "noise": "0.02"},
    "mri": {"acceleration": 4.0, "coils": 4, "noise": "0.02"},
    "ct": {"angles": 40, "noise": "0.5"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, help="image to use instead of the bundled ones")
    parser.add_argument("--size", type=int, default=128, help="side of the image after center cropping (default: %(default)s)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="default: all")
    parser.add_argument("--methods", nargs="*", default=[], help="methods to compare with; see `invdiff methods`")
    parser.add_argument("--steps", type=int, help="steps of those methods (default: their own)")
    parser.add_argument("--samples", type=int, default=4, help="samples per run (default: %(default)s)")
    parser.add_argument("--gallery", type=Path, help=".jpg or .png file to write")
    parser.add_argument("--tables", action="store_true", help="print the tables of the JSON file")
    parser.add_argument("--json", type=Path, default=HERE / "problems.json", help="(default: %(default)s)")
    options = parser.parse_args()

    rows: dict[str, Any] = json.loads(options.json.read_text()) if options.json.exists() else {}
    jobs = [(case, method) for method in ("auto", *options.methods) for case in options.cases]
    shown: dict[str, list[np.ndarray[Any, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case, method in tqdm([] if options.tables else jobs, unit=" runs", disable=None):
            steps = None if method == "auto" else options.steps
            pixels = picture(options.input, case.partition(",")[0], options.size)
            name = "chelsea" if options.input is None else options.input.stem
            key = "|".join(map(str, (case, method, steps, name, options.size, options.samples, CASES[case])))
            wanted = options.gallery is not None and method == "auto"
            if key not in rows or wanted:
                rows[key], tiles = run(case, pixels, Path(folder), method=method, steps=steps, samples=options.samples)
                shown |= {case: tiles} if wanted else {}
                with atomic_write(options.json) as temporary:
                    temporary.write_text(json.dumps(rows, indent=1) + "\n")
    if options.gallery is not None:
        draw_gallery(options.gallery, shown)
    print_table(rows, options)


def picture(path: Path | None, problem: str, size: int) -> Image.Image:
    if path is not None:
        image = Image.open(path).convert("RGB")
        return ImageOps.fit(image, (min(size, *image.size),) * 2, Image.Resampling.LANCZOS)
    values = getattr(data, PROBLEMS[problem].bundled)()
    if values.dtype != np.uint8:
        values = np.rint(255 * values.clip(0, 1)).astype(np.uint8)
    elif size < 256:
        values = values[20:276, 110:366]  # the face of the cat
    return ImageOps.fit(Image.fromarray(values), (size, size), Image.Resampling.LANCZOS)


def run(
    case: str, image: Image.Image, folder: Path, *, method: str, steps: int | None, samples: int
) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]]:
    """Return the figures of one run, and pictures of truth, measurement, mean and a sample."""
    problem, score = case.partition(",")[0], load_prior("natural")
    image.save(folder / "in.png")
    ImageOps.fit(Image.open(MASK).convert("L"), image.size, Image.Resampling.NEAREST).save(folder / "mask.png")
    given = CASES[case] | ({"mask": folder / "mask.png"} if problem == "inpaint" else {})
    task = read(folder / "in.png", problem, simulate=True, **given)
    settings = {"method": method, "steps": steps, "rule": None, "preset": None}
    started = time.monotonic()
    try:
        sampler = PosteriorSampler(score, task.op, **sampler_arguments(task.problem, settings, {}))
        post = sampler.run(task.y, num_samples=samples, seed=0, progress=sys.stderr.isatty())
    except (ValueError, DivergenceError) as error:
        return {"refused": str(error)}, []
    results = task.finish(post.samples[:, 0])
    assert task.clean is not None
    measured, mean = task.problem.preview(task.measurement), results.mean(0, keepdim=True)
    noisy = task.observed.sigma_y > 0
    figures = {
        "measured": decibels(measured, task),
        "mean": decibels(mean, task),
        "sample": float(np.mean([decibels(x[None], task) for x in results])),
        "misfit": float(np.mean(task.residual(results))) / task.observed.dof if noisy else None,
        "seconds": round(time.monotonic() - started, 1),
        "nfe": post.nfe,
        "nvjp": post.nvjp,
        "method": post.method,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }
    return figures, [np.asarray(tile[0]) for tile in (task.clean, measured, mean, results[:1])]


def decibels(image: Tensor, task: Measured) -> float:
    assert task.clean is not None
    if image.shape != task.clean.shape:
        return float("nan")
    return float(psnr(image.clamp(-1, 1), task.clean))


def draw_gallery(path: Path, shown: dict[str, list[np.ndarray[Any, Any]]]) -> None:
    """Write truth, measurement, mean and a sample of every task, two tasks in a row."""
    from matplotlib.figure import Figure

    names = [name for name, tiles in shown.items() if tiles]
    lines = (len(names) + 1) // 2
    figure = Figure(figsize=(11.2, 1.55 * lines + 0.3), dpi=100, layout="constrained")
    axes = figure.subplots(lines, 9, squeeze=False, width_ratios=[1, 1, 1, 1, 0.12, 1, 1, 1, 1])
    for axis in axes.flat:
        axis.set_axis_off()
    for place, name in enumerate(names):
        row, column = divmod(place, 2)
        for k, (title, tile) in enumerate(zip(("truth", name, "mean", "a sample"), shown[name], strict=True)):
            pixels = ((np.clip(tile, -1, 1) + 1) / 2).transpose(1, 2, 0)
            axis = axes[row, 5 * column + k]
            axis.imshow(pixels if pixels.shape[2] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=1)
            axis.set_title(title if k == 1 or row == 0 else "", fontsize=8, fontweight="bold" if k == 1 else "normal")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, pil_kwargs={"quality": 90} if path.suffix == ".jpg" else {})


def print_table(rows: dict[str, Any], options: argparse.Namespace) -> None:
    name = "chelsea" if options.input is None else options.input.stem
    found: dict[str, dict[str, Any]] = {}
    for key, row in rows.items():
        case, method, _, picture_name, size, *_ = key.split("|")
        if picture_name == name and int(size) == options.size:
            found.setdefault(case, {})[method] = row
    others = sorted({method for row in found.values() for method in row} - {"auto"})
    lines = []
    for case in CASES:
        if "auto" not in found.get(case, {}):
            continue
        own = found[case]["auto"]
        figures = [own["measured"], own["mean"], own["sample"], own["misfit"], own["seconds"]]
        lines.append([case, *figures, *(found[case].get(other, {}).get("mean") for other in others)])
    headers = ["task", "measured", "mean", "sample", "misfit", "seconds", *others]
    print(tabulate(lines, headers, tablefmt="github", floatfmt=("", ".2f", ".2f", ".2f", ".2f", ".0f", *[".2f"] * len(others))))


if __name__ == "__main__":
    main()
