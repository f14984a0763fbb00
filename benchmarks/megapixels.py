"""Time and memory of inpainting large photographs: ``python benchmarks/megapixels.py FOLDER``.

Photographs of the folder are enlarged side by side to a picture of 1, 4, 12 and 48 megapixels. A date stamp, or a small one and
scratches, are masked, more of them for a larger share of missing pixels, and ``invdiff solve`` fills them in, in a process of
its own, with its default settings. The table has the share of the picture that is computed in windows, the seconds of the
sampler and of the whole command, its processor time, and the peak memory of the process. Finished cases are kept in the JSON
file and not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage.draw import line
from tabulate import tabulate

from invdiff.io.images import atomic_write, list_images

SIZES = {1: (900, 1200), 4: (1728, 2304), 12: (3000, 4000), 48: (6000, 8000)}  # megapixels: height and width
COLUMNS = ("missing, %", "windows", "computed, %", "sampler, s", "command, s", "processor, s", "peak, MiB", "load")
STAMP = "30 11 '26  12:34"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 12], choices=[*SIZES], help="(default: %(default)s)")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 1.4, 5, 20], help="in percent (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", default=["stamp", "scratches"], choices=["stamp", "scratches"])
    parser.add_argument("--samples", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--arguments", default="", help="further arguments of invdiff solve, such as '--quality fast'")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/megapixels.json"), help="(default: %(default)s)")
    options = parser.parse_args()
    if not list_images(options.folder):
        parser.error(f"{options.folder} holds no photographs")
    done: dict[str, dict[str, Any]] = json.loads(options.out.read_text()) if options.out.exists() else {}
    rows = []
    for megapixels in options.sizes:
        for share in options.shares:
            for kind in options.kinds:
                settings = f"{options.samples} samples, {options.arguments or 'default settings'}"
                key = f"{megapixels} MP, {share:g} % by {kind}, {settings}"
                if key not in done:
                    done[key] = measure(options, SIZES[megapixels], share, kind)
                    with atomic_write(options.out) as part:
                        part.write_text(json.dumps(done, indent=1))
                case = done[key]
                rows.append({"megapixels": megapixels, "mask": kind, **{name: case[name] for name in COLUMNS}})
                print(key, case, flush=True)
    print(tabulate(rows, headers="keys", tablefmt="github"))


def measure(options: argparse.Namespace, size: tuple[int, int], share: float, kind: str) -> dict[str, Any]:
    """Run ``invdiff solve`` on a picture of this size, ``(height, width)``, and return the figures."""
    missing = mask(size, share / 100, kind)
    with tempfile.TemporaryDirectory() as folder:
        picture, holes = Path(folder, "picture.png"), Path(folder, "mask.png")
        Image.fromarray(collage(options.folder, size)).save(picture)
        Image.fromarray(np.uint8(255) * missing).save(holes)
        command = [sys.executable, "-P", "-m", "invdiff", "solve", str(picture), "--problem", "inpaint", "--mask", str(holes)]
        command += ["--samples", str(options.samples), *options.arguments.split(), "-o", str(Path(folder, "out")), "--json"]
        load, started, computed = os.getloadavg()[0], time.perf_counter(), processor_seconds()
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        seconds = time.perf_counter() - started
        record = json.loads(done.stdout)
    windows = record["options"].get("windows", {"count": 0, "share": 1.0})
    return {
        "missing, %": float(f"{100 * missing.mean():.3g}"),
        "windows": windows["count"],
        "computed, %": float(f"{100 * windows['share']:.3g}"),
        "sampler, s": round(record["timing"]["seconds"]["sample"], 1),
        "command, s": round(seconds, 1),
        "processor, s": round(processor_seconds() - computed, 1),
        "peak, MiB": round(record["timing"]["peak_memory_mib"]["process"]),
        "load": round((load + os.getloadavg()[0]) / 2, 1),
        "nfe": record["nfe"],
        "nvjp": record["nvjp"],
    }


def processor_seconds() -> float:
    """Return the processor time of all commands that have ended, which depends little on what else the machine does."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def collage(folder: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return photographs enlarged side by side, to a picture of this size."""
    paths = list_images(folder)
    columns = max(1, math.floor(math.sqrt(len(paths))))
    rows, (height, width) = max(1, len(paths) // columns), size
    picture = Image.new("RGB", (width, height))
    for place, path in enumerate(paths[: rows * columns]):
        (row, column), photograph = divmod(place, columns), Image.open(path).convert("RGB")
        top, left = height * row // rows, width * column // columns
        bottom, right = height * (row + 1) // rows, width * (column + 1) // columns
        picture.paste(photograph.resize((right - left, bottom - top), Image.Resampling.LANCZOS), (left, top))
    return np.asarray(picture)


def mask(size: tuple[int, int], share: float, kind: str) -> NDArray[np.bool_]:
    """Return a mask with a date stamp in the lower right corner; for ``scratches``, with a small one and these."""
    (height, width), random = size, np.random.default_rng(0)
    area = share * height * width
    inked = min(area, 0.02 * height * width) if kind == "stamp" else 0.1 * area
    missing = stamp(size, inked)
    while missing.sum() < area:
        row, column = random.integers(height), random.integers(width)
        angle, length = random.uniform(0, math.pi), random.uniform(0.05, 0.3) * height
        end = round(row + length * math.sin(angle)), round(column + length * math.cos(angle))
        rows, columns = line(row, column, *end)
        for shift in range(3):  # Three pixels thick.
            inside = (rows + shift >= 0) & (rows + shift < height) & (columns >= 0) & (columns < width)
            missing[rows[inside] + shift, columns[inside]] = True
    return missing


def stamp(size: tuple[int, int], area: float) -> NDArray[np.bool_]:
    """Return the mask of a date stamp so large that this number of pixels is missing, nearly."""
    height, width = size
    best = np.zeros(size, dtype=np.bool_)
    for lettering in range(6, height // 4):
        picture = Image.new("L", (width, height))
        font, draw = ImageFont.load_default(size=lettering), ImageDraw.Draw(picture)
        _, _, right, bottom = draw.textbbox((0, 0), STAMP, font=font, stroke_width=lettering // 20)
        place = width - right - width // 40, height - bottom - height // 40
        draw.text(place, STAMP, fill=255, font=font, stroke_width=lettering // 20)
        missing = np.asarray(picture) > 100
        if missing.sum() > area or place[0] < 0:
            break
        best = missing
    return best


if __name__ == "__main__":
    main()
