"""Compute the calibration that comes with the bundled prior: ``python benchmarks/natural_calibration.py FOLDER``.

For every ready-made problem, at one usual setting, ``invdiff calibrate --save`` learns the necessary width of intervals from
one crop of each photograph in FOLDER; ``invdiff solve --calibration natural`` applies it. The photographs must be new to the
prior: at least 9 of them, or 19 for 95 % intervals. Problems that the file already has for this prior are not computed again,
so an interrupted run can be continued. ``--quick`` runs the whole program in seconds, on tiny crops with two steps, and needs
another ``--out``, because its widths are useless. ``--table`` computes nothing and prints the table of the saved results.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from invdiff.cli import main as invdiff
from invdiff.priors import load_prior
from invdiff.problems import PROBLEMS
from invdiff.restoration.calibration_file import BUNDLED

MASK = Path(__file__).parents[1] / "examples" / "mask.png"
CORNER = 96  # of the part of the mask that is laid over the crops, from its top and left
# Problem to the options that say what happens to the crops: usual noise and damage.
CASES: dict[str, tuple[Any, ...]] = {
    "inpaint": ("--mask", "mask.png"),
    "outpaint": ("--margin", 6),
    "denoise": ("--noise", 0.1),
    "deblur": ("--kernel", "gaussian:2", "--noise", 0.02),
    "defocus": ("--radius", 3, "--noise", 0.02),
    "motion-deblur": ("--length", 9, "--angle", 30, "--noise", 0.02),
    "sr": ("--factor", 2, "--noise", 0.01),
    "colorize": ("--noise", 0.01),
    "demosaic": ("--pattern", "RGGB", "--noise", 0.01),
    "declip": ("--clip-high", 0.6, "--noise", 0.01),
    "dequantize": ("--levels", 6),
    "dejpeg": ("--jpeg-quality", 20),
    "compressed-sensing": ("--ratio", 0.25, "--noise", 0.02),
    "phase-retrieval": ("--codes", 2, "--noise", 0.02),
    "mri": ("--acceleration", 4, "--coils", 4, "--noise", 0.02),
    "ct": ("--angles", 40, "--noise", 0.5),
}
assert CASES.keys() == PROBLEMS.keys() - {"operator"}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photographs that are new to the prior")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="PROBLEM", default=list(CASES), help="(default: all)")
    parser.add_argument("--size", type=int, default=32, help="side of the crops (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=4, help="samples per crop, as in `solve` (default: %(default)s)")
    parser.add_argument("--prior", default="natural", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=BUNDLED, help="(default: the file that comes with the prior)")
    parser.add_argument("--quick", action="store_true", help="crops of 16 pixels, two samples, two steps")
    parser.add_argument("--table", action="store_true", help="compute nothing, print the table of the saved results")
    options = parser.parse_args(arguments)
    if options.quick and options.out == BUNDLED:
        parser.error("--quick needs another --out, because its widths are useless")
    if not options.table:
        learn(options)
    print(table(options))


def learn(options: argparse.Namespace) -> None:
    size = 16 if options.quick else options.size
    few = ("--samples", 2, "--steps", 2) if options.quick else ("--samples", options.samples)
    done = of_prior(options)
    with tempfile.TemporaryDirectory() as name, tqdm([p for p in options.only if p not in done], disable=None) as bar:
        folder = Path(name)
        with Image.open(MASK) as mask:
            mask.crop((CORNER, CORNER, CORNER + size, CORNER + size)).save(folder / "mask.png")
        for problem in bar:
            bar.set_postfix_str(problem)
            case = [folder / "mask.png" if value == "mask.png" else value for value in CASES[problem]]
            given = ["calibrate", options.folder, "--problem", problem, *case, "--size", size, *few, "--prior", options.prior]
            given += ["--save", options.out, "--overwrite", "-o", folder / problem, "--precision", "float32", "--json"]
            started = time.monotonic()
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    interrupted = invdiff([str(value) for value in given], standalone_mode=False) == 130
            except click.ClickException as error:  # One problem that has no width leaves the others theirs.
                tqdm.write(f"{problem}: {error.message}")
                continue
            if interrupted:
                break
            tqdm.write(f"{problem}: {time.monotonic() - started:.0f} s")


def entries(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(options.out.read_text())["problems"] if options.out.exists() else {}
    return found


def of_prior(options: argparse.Namespace) -> dict[str, Any]:
    """Return the entries of the prior as it is now."""
    now = load_prior(options.prior).describe()["sha256"]
    return {name: entry for name, entry in entries(options).items() if entry["prior"]["sha256"] == now}


def table(options: argparse.Namespace) -> str:
    lines = []
    for problem, entry in entries(options).items():
        rows = {row["level"]: row for row in entry["widths"]}
        shown = [
            f"{rows[level]['width']:.2f} ({rows[level]['exact']:.2f})" if level in rows else "-" for level in (0.6827, 0.9)
        ]
        lines.append([problem, " ".join(map(str, CASES[problem])), entry["images"], entry["settings"]["samples"], *shown])
    headers = ["problem", "setting", "images", "samples", "width for 68 % (of exact samples)", "for 90 %"]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
