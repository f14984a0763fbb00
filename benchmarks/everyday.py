"""Ten everyday wishes of photographers: ``python benchmarks/everyday.py FOLDER``.

Each task damages a photograph of the folder, runs the command that a stranger would type, and compares the result with the
photograph and with a free tool: OpenCV's Telea inpainting, scikit-image's Wiener filter and non-local means,
bicubic enlargement. Where the free tool needs what the stranger does not have (the kernel of a blur, a mask of scratches) it is
told the truth, and the table says so. A command that fails is a row with its message.

Printed: a table, with the PSNR of the mean of the samples (``mean``) and of a single picture (``best``, or the first sample),
over the damaged pixels where the rest is kept. Written to the folder ``--out``: for each task the files, the results and
``panel.png`` to look at; ``everyday.json``.
"""

from __future__ import annotations

import argparse
import io
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy import ndimage, signal
from skimage import restoration
from tabulate import tabulate

from invdiff.io.figures import comparison_panel
from invdiff.io.images import atomic_write

Pixels = NDArray[np.float64]  # (H, W, 3) in [0, 1]
NOISE, STRONG_NOISE = 0.01, 25 / 255
BIG = (1200, 900)  # the photograph with a date
BALANCES = (0.003, 0.01, 0.03, 0.1)  # of scikit-image's Wiener filter
MARGIN = 24  # pixels of the scene beyond a blurred photograph


@dataclass(frozen=True)
class Task:
    """A damaged photograph.

    Attributes:
        before: The damaged photograph, as the stranger has it.
        truth: The photograph.
        files: Pictures to write, by name; the command names them.
        command: What the stranger types after ``invdiff``.
        rival: Name of the free tool and its result, computed when called.
        damaged: Where pixels are damaged; ``None``: everywhere.
        quality: Quality of JPEG files.
    """

    before: Pixels
    truth: Pixels
    files: dict[str, Pixels]
    command: str
    rival: tuple[str, Callable[[], Pixels]]
    damaged: NDArray[np.bool_] | None = None
    quality: int = 92


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs; gray ones and those smaller than SIZE are left out")
    parser.add_argument("--size", type=int, default=256, help="side of the squares (default: %(default)s)")
    parser.add_argument("--blind-size", type=int, default=192, help="side where the blur is unknown (default: %(default)s)")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="numbers of tasks")
    parser.add_argument("--limit", type=int, default=600, help="seconds that a command may take (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("everyday-out"), help="(default: %(default)s)")
    options = parser.parse_args()
    photographs = [image for path in sorted(options.folder.iterdir()) if (image := photograph(path, options.size)) is not None]
    if len(photographs) < 2:
        parser.error(f"{options.folder} holds fewer than two color photographs of {options.size} pixels or more")

    rows: dict[str, dict[str, Any]] = {}
    for number, (name, make) in enumerate(TASKS.items(), start=1):
        if options.only is not None and number not in options.only:
            continue
        side = options.blind_size if name.startswith("blurred") else options.size
        pick = [photographs[(3 * number + k) % len(photographs)] for k in range(2)]
        task = make(pick, side, np.random.default_rng(number))
        rows[f"{number} {name}"] = run(task, options.out / f"{number}-{name.replace(' ', '-').replace(',', '')}", options.limit)
        with atomic_write(options.out / "everyday.json") as part:
            part.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print(f"{number} {name}: {rows[f'{number} {name}']}", file=sys.stderr)
    print(table(rows))


def photograph(path: Path, size: int) -> Image.Image | None:
    """Return a color photograph, or ``None`` for anything else."""
    try:
        with Image.open(path) as image:
            return image.copy() if image.mode == "RGB" and min(image.size) >= size else None
    except (OSError, ValueError):  # no picture
        return None


def run(task: Task, folder: Path, limit: int) -> dict[str, Any]:
    """Run the command and the free tool of a task; write the files and the panel, and return the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in task.files.items():
        Image.fromarray(bytes_of(pixels)).save(folder / name, quality=task.quality, subsampling=0)
    name, other = task.rival
    started = time.monotonic()
    rival = other()
    row: dict[str, Any] = {
        "command": f"invdiff {task.command}",
        "before": psnr(task.before, task),
        "free tool": name,
        "free": psnr(rival, task),
        "free seconds": round(time.monotonic() - started, 1),
    }
    words = [sys.executable, "-P", "-m", "invdiff", *shlex.split(task.command), "-o", "results", "--overwrite"]
    started = time.monotonic()
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=limit)
        failed = done.stderr.strip().splitlines()[-1:] or ["no message"] if done.returncode else []
        row["said"] = [line for line in done.stderr.strip().splitlines() if line]
    except subprocess.TimeoutExpired:
        failed = [f"took longer than {limit} s"]
    row["seconds"] = round(time.monotonic() - started, 1)
    tiles = {"before": task.before, name: rival}
    if failed:
        row["error"] = failed[0]
    else:
        for shown, stems in {"mean": ("mean",), "best": ("best", "sample-1")}.items():
            found = result(folder / "results", stems)
            if found is None or found.shape != task.truth.shape:
                row["error"] = f"{shown}: {'no such file' if found is None else f'of shape {found.shape}'}"
                continue
            row[shown], tiles[shown] = psnr(found, task), found
    tiles["truth"] = task.truth
    comparison_panel(folder / "panel.png", {title: 2 * tile.transpose(2, 0, 1) - 1 for title, tile in tiles.items()})
    return row


def result(folder: Path, stems: tuple[str, ...]) -> Pixels | None:
    """Return the first picture that there is of those named."""
    paths = [path for stem in stems for path in sorted(folder.glob(f"{stem}.*"))]
    return pixels_of(Image.open(paths[0]).convert("RGB")) if paths else None


def psnr(pixels: Pixels, task: Task) -> float:
    """Return the PSNR in dB over the damaged pixels."""
    square = (pixels - task.truth) ** 2
    error = square.mean() if task.damaged is None else square[task.damaged].mean()
    return round(float(-10 * np.log10(max(error, 1e-10))), 2)


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        [
            name,
            row["command"],
            row["before"],
            f"{row['free']} ({row['free tool']})",
            row.get("mean", row.get("error", "")[:60]),
            row.get("best", ""),
            row["seconds"],
        ]
        for name, row in rows.items()
    ]
    headers = ["task", "what a stranger types", "before", "free tool", "invdiff mean", "best", "seconds"]
    return tabulate(lines, headers, tablefmt="github")


# The tasks.


def scratches(pick: list[Image.Image], side: int, rng: np.random.Generator) -> Task:
    truth = square(pick[0], side)
    drawn = Image.new("L", (side, side))
    for _ in range(10):
        start, angle = rng.uniform(0, side, 2), rng.uniform(0, np.pi)
        steps = np.cumsum(np.stack([np.cos(angle), np.sin(angle)]) + rng.normal(0, 0.15, (side // 3, 2)), 0)
        ImageDraw.Draw(drawn).line(
            [tuple(point) for point in (start + 2 * steps).tolist()], fill=255, width=int(rng.integers(1, 3))
        )
    where = np.asarray(drawn) > 0
    before = blended(truth, where.astype(np.float64), np.array([0.92, 0.9, 0.85]))
    files = {"scratched.png": before}
    command = "solve scratched.png --problem inpaint --mask auto"
    return Task(before, truth, files, command, ("Telea, told the mask", lambda: telea(before, where)), where)


def date_stamp(pick: list[Image.Image], side: int, rng: np.random.Generator) -> Task:
    truth = pixels_of(pick[0].resize(BIG, Image.Resampling.LANCZOS))
    place, font = (BIG[0] - 330, BIG[1] - 80), ImageFont.load_default(size=44)
    letters, stroke = Image.new("L", BIG), Image.new("L", BIG)
    ImageDraw.Draw(letters).text(place, "24.12.2003", fill=255, font=font)
    ImageDraw.Draw(stroke).text(place, "24.12.2003", fill=255, font=font, stroke_width=5)
    before = blended(truth, np.asarray(letters) / 255, np.array([1.0, 0.55, 0.1]))
    mask = np.asarray(stroke.filter(ImageFilter.GaussianBlur(1.5))) / 255  # a soft brush
    files = {"photo.jpg": before, "mask.png": gray(mask)}
    return inpainting(truth, before, mask > 0.5, files, "solve photo.jpg --problem inpaint --mask mask.png")


def remove_object(pick: list[Image.Image], side: int, rng: np.random.Generator) -> Task:
    truth, other = square(pick[0], side), square(pick[1], side)
    shape = ellipse(side, 0.62, 0.55, 0.09, 0.14)
    before = np.where(shape[..., None], other, truth)
    mask = ndimage.binary_dilation(shape, iterations=3)  # painted by hand, a little outside
    files = {"photo.png": before, "mask.png": gray(mask)}
    return inpainting(truth, before, mask, files, "solve photo.png --problem inpaint --mask mask.png")


def red_brush(pick: list[Image.Image], side: int, rng: np.random.Generator) -> Task:
    truth = square(pick[0], side)
    wires, brush = Image.new("L", (side, side)), Image.new("L", (side, side))
    for height in (0.3, 0.36, 0.7):
        line = [(0, side * height), (side / 2, side * (height + 0.04)), (side, side * (height - 0.02))]
        ImageDraw.Draw(wires).line(line, fill=255, width=2)
        ImageDraw.Draw(brush).line(line, fill=255, width=7)
    before = blended(truth, np.asarray(wires) / 255, np.array([0.08, 0.08, 0.1]))
    soft = np.asarray(brush.filter(ImageFilter.GaussianBlur(0.8))) / 255
    files = {"photo.png": before, "painted.png": blended(before, soft, np.array([1.0, 0.0, 0.0]))}
    command = "solve photo.png --problem inpaint --mask painted.png --mask-color red"
    return inpainting(truth, before, np.asarray(wires) > 0, files, command, told=soft > 0.5)


def camera_shake(pick: list[Image.Image], side: int, rng: np.random.Generator) -> Task:
    path = np.cumsum(ndimage.gaussian_filter1d(rng.normal(size=(200, 2)), 12, axis=0), 0)
    path = 6 * (path - path.mean(0)) / np.abs(path - path.mean(0)).max() + 8
    kernel = np.histogram2d(*path.T, bins=17, range=((-0.5, 16.5), (-0.5, 16.5)))[0]
    return blurred(pick[0], side, rng, ndimage.gaussian_filter(kernel, 0.6), "solve blurred.png --problem deblur --noise auto")


def out_of_focus(pick: list[Image.Image], side: int, rng: np.random.Generator) -> Task:
    row, column = np.mgrid[-4:5, -4:5]
    disc = np.clip(3.5 + 0.5 - np.hypot(row, column), 0, 1)
    return blurred(pick[0], side, rng, disc, "solve blurred.png --problem defocus --noise auto")


def motion(pick: list[Image.Image], side: int, rng: np.random.Generator) -> Task:
    line = Image.new("L", (4 * 15, 4 * 15))  # at four times the resolution, for its edges
    ImageDraw.Draw(line).line([(12, 40), (48, 20)], fill=255, width=4)
    kernel = np.asarray(line, dtype=np.float64).reshape(15, 4, 15, 4).mean((1, 3))
    return blurred(pick[0], side, rng, kernel, "solve blurred.png --problem motion-deblur --noise auto")


def noise(pick: list[Image.Image], side: int, rng: np.random.Generator) -> Task:
    truth = square(pick[0], side)
    before = rounded(truth + STRONG_NOISE * rng.normal(size=truth.shape))

    def means() -> Pixels:
        sigma = float(np.mean(restoration.estimate_sigma(before, channel_axis=-1)))
        settings: dict[str, Any] = {"patch_size": 5, "patch_distance": 6, "channel_axis": -1}
        return restoration.denoise_nl_means(before, h=0.8 * sigma, sigma=sigma, fast_mode=True, **settings)  # type: ignore[no-any-return]

    command = "solve noisy.png --problem denoise --noise auto"
    return Task(before, truth, {"noisy.png": before}, command, ("non-local means, level estimated", means))


def small_jpeg(pick: list[Image.Image], side: int, rng: np.random.Generator) -> Task:
    truth = square(pick[0], side)
    small = truth.reshape(side // 2, 2, side // 2, 2, 3).mean((1, 3))
    code = io.BytesIO()
    Image.fromarray(bytes_of(small)).save(code, format="JPEG", quality=85, subsampling=0)
    seen = Image.open(code)
    nearest, bicubic = (
        pixels_of(seen.resize((side, side), kind)) for kind in (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)
    )
    command = "solve small.jpg --problem sr --factor 2"
    return Task(nearest, truth, {"small.jpg": small}, command, ("bicubic", lambda: bicubic), quality=85)


def old_gray(pick: list[Image.Image], side: int, rng: np.random.Generator) -> Task:
    truth = square(pick[0], side)
    before = rounded(np.repeat((truth @ np.array([0.299, 0.587, 0.114]))[..., None], 3, -1))  # gray, saved in color
    return Task(before, truth, {"old.png": before}, "solve old.png --problem colorize", ("none: left gray", lambda: before))


TASKS: dict[str, Callable[[list[Image.Image], int, np.random.Generator], Task]] = {
    "thin scratches, no mask": scratches,
    "date stamp": date_stamp,
    "object removal": remove_object,
    "wires, painted red": red_brush,
    "blurred by camera shake": camera_shake,
    "blurred out of focus": out_of_focus,
    "blurred by motion": motion,
    "noise of unknown level": noise,
    "small JPEG times 2": small_jpeg,
    "gray to color": old_gray,
}


# What they share.


def inpainting(
    truth: Pixels, before: Pixels, damaged: NDArray[np.bool_], files: dict[str, Pixels], command: str, told: Any = None
) -> Task:
    mask = damaged if told is None else told
    return Task(before, truth, files, command, ("Telea", lambda: telea(before, mask)), damaged)


def blurred(image: Image.Image, side: int, rng: np.random.Generator, kernel: Pixels, command: str) -> Task:
    """Return a photograph cut out of a larger blurred scene; the free tool is told the kernel and its best parameter."""
    kernel = kernel / kernel.sum()
    scene = np.pad(square(image, side), [(MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)], mode="reflect")
    smeared = np.stack([signal.fftconvolve(scene[..., c], kernel, mode="same") for c in range(3)], -1)
    smeared = smeared[MARGIN:-MARGIN, MARGIN:-MARGIN]
    truth, before = square(image, side), rounded(smeared + NOISE * rng.normal(size=smeared.shape))

    def wiener() -> Pixels:
        padded = np.pad(before, [(MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)], mode="reflect")
        found = []
        for balance in BALANCES:
            parts = [restoration.wiener(padded[..., c], kernel, balance) for c in range(3)]
            found.append(np.stack(parts, -1)[MARGIN:-MARGIN, MARGIN:-MARGIN].clip(0, 1))
        return min(found, key=lambda result: float(((result - truth) ** 2).mean()))

    return Task(before, truth, {"blurred.png": before}, command, ("Wiener, told kernel and balance", wiener))


def telea(pixels: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    try:
        import cv2
    except ModuleNotFoundError:
        sys.exit("OpenCV is compared with and no dependency of invdiff. Run: pip install opencv-python-headless")

    return np.asarray(cv2.inpaint(bytes_of(pixels), mask.astype(np.uint8), 3, cv2.INPAINT_TELEA)) / 255


def square(image: Image.Image, side: int) -> Pixels:
    """Return the central square of a photograph at ``side`` pixels: of half its shorter side, or ``side`` if that is more."""
    part = max(side, min(image.size) // 2)
    left, top = (image.width - part) // 2, (image.height - part) // 2
    return pixels_of(image.crop((left, top, left + part, top + part)).resize((side, side), Image.Resampling.LANCZOS))


def ellipse(side: int, row: float, column: float, height: float, width: float) -> NDArray[np.bool_]:
    y, x = np.mgrid[:side, :side] / side
    return ((y - row) / height) ** 2 + ((x - column) / width) ** 2 < 1


def blended(pixels: Pixels, opacity: Pixels, color: Pixels) -> Pixels:
    return rounded(pixels + opacity[..., None] * (color - pixels))


def gray(mask: NDArray[Any]) -> Pixels:
    return np.repeat(np.asarray(mask, dtype=np.float64)[..., None], 3, -1)


def pixels_of(image: Image.Image) -> Pixels:
    return np.asarray(image, dtype=np.float64) / 255


def rounded(pixels: Pixels) -> Pixels:
    """Return pixels as an 8-bit file has them."""
    return bytes_of(pixels) / 255.0


def bytes_of(pixels: Pixels) -> NDArray[np.uint8]:
    return np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)


if __name__ == "__main__":
    main()
