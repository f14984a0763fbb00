"""The options of ``--problem``: which there are, whose they are, and what each problem cannot do without."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from invdiff.cli.noise import NOISE, NoiseChoice

__all__ = ["NEEDS", "OPTIONS", "OWNERS", "PROBLEM_NAMES", "check_needs", "problem_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

# Written out because the help must not import torch; a test holds them to the registry.
PROBLEM_NAMES = (
    *("inpaint", "outpaint", "denoise", "deblur", "defocus", "motion-deblur", "sr"),
    *("colorize", "demosaic", "declip", "dequantize", "dejpeg"),
    *("compressed-sensing", "phase-retrieval", "mri", "ct"),
)
ARRAYS = ("compressed-sensing", "phase-retrieval", "mri", "ct")  # whose INPUT is a file of arrays
ROUNDED = ("dequantize", "dejpeg")  # whose noise is rounding

NEEDS = {
    "inpaint": "--mask, or an INPUT with transparent pixels",
    "outpaint": "--margin, how many pixels to add on every side",
    "denoise": "--noise above 0",
    "deblur": "--kernel, a file (image, .npy, .npz:name), gaussian:SIGMA or motion:SIZE,ANGLE",
    "defocus": "--radius, of the disc that a point becomes, in pixels",
    "motion-deblur": "--length in pixels and --angle in degrees of the movement",
    "sr": "--factor, how many times smaller INPUT is than the image",
    "colorize": "a grey INPUT and nothing else",
    "demosaic": "--pattern, the colours of the top left 2 x 2 pixels",
    "declip": "--clip-low or --clip-high, the ends of the range that INPUT is confined to, or both",
    "dequantize": "--levels, how many a channel of INPUT has",
    "dejpeg": "a JPEG file as INPUT; to simulate, --jpeg-quality from 1 to 100",
    "compressed-sensing": "an .npz file as INPUT; to simulate, --ratio of numbers measured to pixels",
    "phase-retrieval": "an .npz file as INPUT; to simulate, --codes, how many masks, or --oversampling",
    "mri": "an .npy or .npz file of k-space as INPUT; to simulate, --acceleration",
    "ct": "an .npy or .npz file of a sinogram as INPUT; to simulate, --angles, how many",
}
# Whose an option is that others do not take.
OWNERS = {
    "mask": "inpaint",
    "margin": "outpaint",
    "kernel": "deblur",
    "radius": "defocus",
    "length": "motion-deblur",
    "angle": "motion-deblur",
    "factor": "sr",
    "pattern": "demosaic",
    "clip_low": "declip",
    "clip_high": "declip",
    "levels": "dequantize",
    "jpeg_quality": "dejpeg",
    "ratio": "compressed-sensing",
    "sensing": "compressed-sensing",
    "codes": "phase-retrieval",
    "oversampling": "phase-retrieval",
    "acceleration": "mri",
    "center_fraction": "mri",
    "coils": "mri",
    "angles": "ct",
}
ONE_OF = ("declip", "phase-retrieval")  # one of their options is enough
SPARE = ("sensing", "center_fraction", "coils")  # have a default
# Of which a problem is made.
OPTIONS = (*(name for name in OWNERS if name != "mask"), "boundary", "downsampling", "pattern_seed", "scale")


def _known_problem(context: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is None and not context.resilient_parsing:
        needs = "".join(f"\n  {name:<18} needs {what}" for name, what in NEEDS.items())
        raise click.UsageError(f"--problem is missing: say what happened to the image.{needs}")
    return value


def _finite(context: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"expected a finite number, got {value}.")
    return value


FILE = click.Path(path_type=Path)
option = click.option

PROBLEM_OPTIONS = (
    option(
        "--problem", type=click.Choice(PROBLEM_NAMES), callback=_known_problem, help="What happened to the image (required)."
    ),
    option(
        "--mask",
        type=FILE,
        help="Image as large as INPUT, white where pixels are to be filled (inpaint).",
    ),
    option("--mask-keep", type=click.Choice(("black", "white")), default="black", help="Colour of the pixels to keep."),
    option(
        "--kernel", metavar="FILE|gaussian:SIGMA|motion:SIZE,ANGLE", help="Blur kernel: an image, .npy, or .npz:name (deblur)."
    ),
    option(
        "--boundary",
        type=click.Choice(("reflect", "zero", "circular")),
        default="reflect",
        help="What the blur saw beyond the border (deblur, defocus, motion-deblur).",
    ),
    option(
        "--radius",
        type=click.FloatRange(min=0, min_open=True),
        callback=_finite,
        help="Of the disc that a point becomes, in pixels (defocus).",
    ),
    option("--length", type=click.IntRange(min=3), help="Of the movement, an odd number of pixels (motion-deblur)."),
    option(
        "--angle",
        type=float,
        callback=_finite,
        help="Of the movement, in degrees, anticlockwise from horizontal (motion-deblur).",
    ),
    option("--factor", type=click.IntRange(min=2), help="How many times smaller INPUT is than the image (sr)."),
    option("--downsampling", type=click.Choice(("bicubic", "area")), default="bicubic", help="How it was made smaller (sr)."),
    option("--margin", type=click.IntRange(min=1), help="Pixels to add on every side (outpaint)."),
    option(
        "--pattern",
        type=click.Choice(("RGGB", "BGGR", "GRBG", "GBRG"), case_sensitive=False),
        help="Colours of the top left 2 x 2 pixels, row by row (demosaic).",
    ),
    option("--clip-low", type=float, callback=_finite, help="Value of all that is darker, pixels spanning 0..1 (declip)."),
    option("--clip-high", type=float, callback=_finite, help="Value of all that is brighter, pixels spanning 0..1 (declip)."),
    option("--levels", type=click.IntRange(2, 65536), help="Levels of a channel, black and white included (dequantize)."),
    option("--jpeg-quality", type=click.IntRange(1, 100), help="Of the JPEG file to simulate, as libjpeg counts (dejpeg)."),
    option(
        "--ratio",
        type=click.FloatRange(0, 1, min_open=True),
        help="Numbers measured over pixels, to simulate (compressed-sensing).",
    ),
    option(
        "--sensing",
        type=click.Choice(("hadamard", "convolution")),
        help="Rows of a Walsh-Hadamard transform, of sides that are powers of two, or pixels of a random convolution, to "
        "simulate (compressed-sensing). Default: hadamard.",
    ),
    option("--codes", type=click.IntRange(min=1), help="Random masks, a pattern behind each, to simulate (phase-retrieval)."),
    option(
        "--oversampling",
        type=click.FloatRange(min=0),
        callback=_finite,
        help="How far zeros reach around the image, 2 being half its side in all, to simulate (phase-retrieval).",
    ),
    option(
        "--acceleration",
        type=click.FloatRange(min=1),
        callback=_finite,
        help="One of how many columns of k-space is measured, to simulate (mri).",
    ),
    option(
        "--center-fraction",
        type=click.FloatRange(0, 1),
        help="Share of the columns that is measured in the middle, to simulate (mri). Default: 0.32 over the acceleration.",
    ),
    option("--coils", type=click.IntRange(min=1), help="Receiver coils, to simulate (mri). Default: 1."),
    option("--angles", type=click.IntRange(min=1), help="How many, evenly over half a turn, to simulate (ct)."),
    option(
        "--pattern-seed",
        type=click.IntRange(min=0),
        default=0,
        help="Of what is measured at random, to simulate (compressed-sensing, phase-retrieval, mri).",
    ),
    option(
        "--scale",
        type=click.FloatRange(min=0, min_open=True),
        callback=_finite,
        help="What white is in the units of INPUT (compressed-sensing, phase-retrieval, mri, ct). Default: what a simple "
        "reconstruction shows (mri, ct), or 1.",
    ),
    option(
        "--noise",
        type=NOISE,
        metavar="SIGMA|auto|poisson:PEAK[,SIGMA]|laplace:SCALE|student:SCALE,DOF",
        default="0",
        help="In INPUT, pixels spanning 0..1: a standard deviation, 0 being exact; auto estimates it; PEAK: photons at white.",
    ),
)


def problem_options(command: Command) -> Command:
    """Give a command the options that say what happened to an image."""
    for add in reversed(PROBLEM_OPTIONS):
        command = add(command)
    return command


def check_needs(source: Path | None, settings: Mapping[str, Any], *, simulated: bool) -> None:
    """Refuse options of other problems, and the lack of those that the problem needs.

    Args:
        source: INPUT.
        settings: All options.
        simulated: Whether a clean image is degraded first.
    """
    problem, own = settings["problem"], [name for name, owner in OWNERS.items() if owner == settings["problem"]]
    for name, owner in OWNERS.items():
        if settings[name] is not None and problem != owner:
            raise click.UsageError(f"{_flag(name)} belongs to --problem {owner}, not to {problem}.")
    given = [name for name in own if settings[name] is not None]
    told = problem in (*ARRAYS, "dejpeg") and not simulated  # by INPUT itself
    if told and given:
        raise click.UsageError(
            f"{_flag(given[0])} is for a simulation, and INPUT is a measurement, which tells it: leave it out."
        )
    if problem == "phase-retrieval" and len(given) > 1:
        raise click.UsageError("--codes and --oversampling are two ways to measure: give one of them.")
    enough = bool(given) if problem in ONE_OF else set(own) - set(SPARE) <= set(given)
    # Whether INPUT has transparent pixels, which serve as a mask, is seen only when it is read.
    enough = enough or told or (problem == "inpaint" and source is not None)
    if not enough or (problem == "denoise" and settings["noise"].none):
        raise click.UsageError(f"--problem {problem} needs {NEEDS[problem]}.")
    if settings["scale"] is not None and problem not in ARRAYS:
        raise click.UsageError(f"--scale belongs to --problem {', '.join(ARRAYS)}: pixels of pictures span 0..1.")
    _check_noise(problem, settings["noise"], simulated=simulated)


def _check_noise(problem: str, noise: NoiseChoice, *, simulated: bool) -> None:
    if problem in ROUNDED and not noise.none:
        raise click.UsageError(f"--noise does not go with --problem {problem}: the noise there is rounding.")
    if noise.law == "auto" and simulated:
        raise click.UsageError("--noise auto estimates the noise of a measured INPUT: say how much there shall be.")
    if noise.law != "gaussian" and problem in ARRAYS:
        raise click.UsageError(f"--problem {problem} takes Gaussian noise of a known level, such as --noise 0.01.")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
