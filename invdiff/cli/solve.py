"""``invdiff solve``: draw posterior samples for a measured image."""

from __future__ import annotations

import errno
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from invdiff.cli.prior_options import PRIOR_OPTIONS, given_options, prior_options
from invdiff.cli.problem_options import NOISE_OPTION, PROBLEM_OPTION, NameType, ProblemCommand

__all__ = ["INTERVALS", "QUALITIES", "SAMPLER", "method_options", "solve"]

QUALITIES = ("fast", "balanced", "best")

# Levels of interval maps, in percent; a test compares them with those of calibration files.
INTERVALS = ("50", "68", "80", "90", "95")

SAMPLER = ("method", "steps", "rule", "quality", "preset", "option")
SECTIONS = {
    "Problem": ("problem", "simulate", "black", "white"),
    "Noise": ("noise",),
    "Sampler": ("samples", *SAMPLER, "seed", "chunk", "device"),
    "Prior": PRIOR_OPTIONS,
    "Output": ("output", "overwrite", "calibration", "intervals", "npz", "as_json"),
}

EPILOG = """\b
Examples:
  invdiff solve photo.png --problem inpaint --mask m.png  fill the white pixels of m.png
  invdiff solve photo.png --problem inpaint               fill the transparent pixels
  invdiff solve blurred.png --problem deblur --kernel psf.png --noise 0.01
  invdiff solve blurred.jpg --problem deblur              estimates the kernel too
  invdiff solve blurred.jpg --problem defocus             estimates the radius
  invdiff solve blurred.jpg --problem motion-deblur       estimates length and angle
  invdiff solve small.jpg --problem sr --factor 2 --downsampling unknown
  invdiff solve small.jpg --problem sr --factor 2 --noise 0.01 --samples 8 -o large
  invdiff solve photo.png --problem deblur --kernel gaussian:2 --noise 0.02 --simulate
  invdiff solve old.jpg --problem denoise --noise 0.1
  invdiff solve gray.png --problem colorize
  invdiff solve photo.jpg --problem dejpeg                uses the quantization tables in the file
  invdiff solve cells.tif --problem denoise --noise poisson:40
  invdiff solve kspace.npy --problem mri --noise 0.01
  invdiff solve --problem ct --angles 40 --noise 0.5      simulate and solve a phantom
  invdiff solve face.png --problem inpaint --mask m.png --prior ffhq_10m.pt
  invdiff solve --problem sr --factor 4 --noise 0.01      degrade and solve a bundled photograph
  invdiff solve photo.png --problem inpaint --mask m.png --quality fast
  invdiff solve photo.png --problem inpaint --mask m.png --calibration calibration.json
  invdiff solve photo.png --problem inpaint --mask m.png --intervals 80
"""
FILE = click.Path(path_type=Path)


@click.command(
    cls=ProblemCommand, sections=SECTIONS, epilog=EPILOG, context_settings={"max_content_width": 110, "show_default": True}
)
@click.argument("source", metavar="[INPUT]", type=FILE, required=False)
@PROBLEM_OPTION
@NOISE_OPTION
@click.option("--simulate", is_flag=True, help="INPUT is clean: degrade it, solve, and compare.")
@click.option("--black", type=float, metavar="LEVEL", help="Value of black in the units of INPUT. Default: 0.")
@click.option(
    "--white",
    type=float,
    metavar="LEVEL",
    help="Value of white, such as 4095 for 12-bit data. Default: 255 or 65535 for integers, 1 for floats.",
)
@click.option("--samples", type=click.IntRange(min=1), default=4, help="Number of posterior samples.")
@click.option(
    "--method",
    type=NameType("invdiff.methods:METHODS", extra=("auto",)),
    metavar="NAME|FILE.py:NAME",
    default="auto",
    help="Sampling method; see `invdiff methods`.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Steps of the reverse diffusion. Default: set by the problem or method.",
)
@click.option(
    "--rule", type=click.Choice(("ddpm", "ddim", "heun", "matched")), help="Step rule. Default: set by the problem or method."
)
@click.option(
    "--quality",
    type=click.Choice(QUALITIES),
    help="Trade-off between run time and quality; prints an estimate of the time. Default: balanced.",
    show_default=False,
)
@click.option("--preset", type=click.Choice(("paper",)), help="Published settings of --method for this kind of problem.")
@click.option("--option", multiple=True, metavar="NAME=VALUE", help="Option of the method, such as zeta=0.5. Repeatable.")
@prior_options
@click.option("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto selects a GPU if there is one.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Random seed of the samples and of simulated noise.")
@click.option("--chunk", type=click.IntRange(min=1), help="Samples processed at a time. Default: as many as fit in memory.")
@click.option("-o", "--output", type=FILE, help="Folder for the results. Default: invdiff-out/NAME-PROBLEM.")
@click.option("--overwrite", is_flag=True, help="Replace earlier results in the output folder.")
@click.option(
    "--calibration",
    type=FILE,
    metavar="FILE|natural",
    help="File of `invdiff calibrate --save`: scales std and intervals to their calibrated coverage. natural: the bundled one.",
)
@click.option(
    "--intervals",
    type=click.Choice(INTERVALS),
    help="Also write low and high, the ends of intervals with this coverage in percent. Default: 90 with --calibration.",
)
@click.option("--npz", is_flag=True, help="Also write the samples as floats, posterior.npz.")
@click.option("--json", "as_json", is_flag=True, help="Print run.json instead of a summary.")
def solve(source: Path | None, output: Path | None, overwrite: bool, as_json: bool, **settings: Any) -> None:
    """Draw posterior samples of the image behind the measurement INPUT.

    INPUT is an image file (PNG, JPEG, TIFF, WebP; 8 or 16 bits; grayscale, RGB, RGBA; TIFF with any number of channels) or an
    .npy array; for compressed-sensing, phase-retrieval, mri and ct, an .npy or .npz file of the measurement, as written by
    --simulate. Without INPUT, a bundled picture is degraded and solved. The output folder holds every sample, their mean, a map
    of their standard deviation, a comparison panel, and run.json, from which the run can be repeated.
    """
    # Imported here, so that `invdiff solve --help` answers without torch.
    from invdiff.cli.duration import duration, estimate
    from invdiff.cli.summary import summary
    from invdiff.io.printable import printable
    from invdiff.posterior import PosteriorSampler
    from invdiff.posterior.misfit import unwarned
    from invdiff.restoration import prepare
    from invdiff.restoration.folder import output_folder
    from invdiff.restoration.record import to_json

    npz = settings.pop("npz")
    option = method_options(settings["option"], settings["method"])
    job = prepare(source, settings, option=option, prior_option=given_options(settings["prior_option"]))
    with output_folder(output, job.measured.name, job.results(npz=npz), overwrite=overwrite) as results:
        for note in job.notes:
            click.echo(printable(note), err=True)
        if settings["quality"] is not None and isinstance(job.sampler, PosteriorSampler):
            seconds = estimate(job.sampler, job.y, settings["samples"])
            click.echo(f"{settings['quality']}: {settings['samples']} samples, about {duration(seconds)}", err=True)
        with unwarned():  # printed as notes instead
            restored = job.run(progress=sys.stderr.isatty())
        for note in restored.notes:
            if note not in job.notes:
                click.echo(printable(note), err=True)
        record = results.fill(lambda part, target: restored.write(part, target, npz=npz))
    try:
        click.echo(to_json(record) if as_json else summary(record))
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        raise OSError(f"the summary could not be printed ({error.strerror}). The results are in {record['output']}.") from error


def method_options(texts: Sequence[str], method: str) -> dict[str, Any]:
    """Parse ``--option`` values: options by name, as the numbers or strings that the method takes."""
    if not texts:
        return {}
    from invdiff.cli.methods import options_of
    from invdiff.methods.options import suggestion
    from invdiff.restoration.sampling import find_method

    found = find_method(method)
    given: dict[str, Any] = {}
    known = options_of(found)
    for text in texts:
        name, separator, value = text.partition("=")
        if name not in known:
            takes = f"expected one of {', '.join(known)}" if known else "it takes none"
            raise click.UsageError(f"--option {text}: {found.name} has no option {name!r}, {takes}.{suggestion(name, known)}")
        if name in given:
            raise click.UsageError(f"--option {text}: {name} is given twice.")
        parsed = _parsed(value, like=known[name]) if separator else None
        if parsed is None:
            kind = KINDS[type(known[name])]
            raise click.UsageError(f"--option {text}: expected {kind}, such as {name}={known[name]}.")
        given[name] = parsed
    return given


# The type of an option's default: what is expected of a value.
KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a word"}


def _parsed(value: str, *, like: Any) -> Any:
    """Return text as a value of the type of ``like``; ``None`` if it is none."""
    if isinstance(like, str):
        return value
    if isinstance(like, bool):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.lower())
    try:
        number = int(value) if isinstance(like, int) else float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
