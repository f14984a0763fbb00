"""``invdiff solve``: draw posterior samples for a measured image."""

from __future__ import annotations

import errno
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from invdiff.cli.prior_options import PRIOR_OPTIONS, given_options, prior_options
from invdiff.cli.problem_options import NOISE_OPTION, PROBLEM_OPTION, NameType, ProblemCommand

if TYPE_CHECKING:
    from invdiff.priors import ScoreModel

__all__ = ["FORMATS", "INTERVALS", "QUALITIES", "QUALITY", "SAMPLER", "method_options", "solve", "solve_file"]

QUALITIES = ("fast", "balanced", "best")

# Levels of interval maps, in percent; a test compares them with those of calibration files.
INTERVALS = ("50", "68", "80", "90", "95")

# Formats of files of results; a test compares them with those of invdiff.restoration.formats.
FORMATS, QUALITY = ("png", "jpg", "tiff", "webp", "input"), 95

SAMPLER = ("method", "steps", "rule", "quality", "preset", "option")
SHORT = 5.0  # seconds that are left, below which no estimate is printed
SECTIONS = {
    "Problem": ("problem", "simulate", "black", "white"),
    "Noise": ("noise",),
    "Sampler": ("samples", *SAMPLER, "windows", "seed", "first_sample", "chunk", "device"),
    "Prior": PRIOR_OPTIONS,
    "Output": ("output", "overwrite", "format", "format_quality", "calibration", "intervals", "npz", "as_json"),
}

EPILOG = """\b
Examples:
  invdiff solve photo.png --problem inpaint --mask m.png  fill the white pixels of m.png
  invdiff solve photo.png --problem inpaint --mask auto   find scratches, dust and date stamps, and fill them
  invdiff solve photo.png --problem inpaint               fill the transparent pixels
  invdiff solve photo.png --problem inpaint --mask copy.png            fill what is painted over in a copy
  invdiff solve painted.jpg --problem inpaint --mask-color red         fill what is painted over in red
  invdiff solve photo.jpg --problem inpaint --mask m.png --grow-mask 4
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
  invdiff solve 1.jpg 2.jpg 3.jpg --problem sr --factor 2 -o large --format jpg
"""
FILE = click.Path(path_type=Path)


@click.command(
    cls=ProblemCommand, sections=SECTIONS, epilog=EPILOG, context_settings={"max_content_width": 110, "show_default": True}
)
@click.argument("sources", metavar="[INPUT]...", type=FILE, nargs=-1)
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
    help="Trade-off between run time and quality. Default: balanced.",
    show_default=False,
)
@click.option("--preset", type=click.Choice(("paper",)), help="Published settings of --method for this kind of problem.")
@click.option("--option", multiple=True, metavar="NAME=VALUE", help="Option of the method, such as zeta=0.5. Repeatable.")
@click.option(
    "--windows",
    type=click.Choice(("auto", "off")),
    default="auto",
    help="auto: compute exact data only around what is missing, where method and prior allow it. off: the whole picture.",
)
@prior_options
@click.option("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto selects a GPU if there is one.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Random seed of the samples and of simulated noise.")
@click.option(
    "--first-sample",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    help="Samples drawn earlier: 4 continues a run of 4 samples with sample 5, as one run would.",
)
@click.option("--chunk", type=click.IntRange(min=1), help="Samples processed at a time. Default: as many as fit in memory.")
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="Folder for the results; with several INPUTs, for a folder of each. Default: invdiff-out/NAME-PROBLEM.",
)
@click.option("--overwrite", is_flag=True, help="Replace earlier results in the output folder.")
@click.option(
    "--format",
    type=click.Choice(FORMATS),
    default="png",
    help="Format of samples, mean and intervals; input: that of INPUT. jpg changes pixels a little; jpg and webp hold 8 bits.",
)
@click.option(
    "--format-quality",
    type=click.IntRange(1, 100),
    help=f"Quality of JPEG files. Default: {QUALITY}.",
)
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
def solve(sources: tuple[Path, ...], output: Path | None, overwrite: bool, as_json: bool, **settings: Any) -> None:
    """Draw posterior samples of the image behind the measurement INPUT.

    INPUT is an image file (PNG, JPEG, TIFF, WebP; 8 or 16 bits; grayscale, RGB, RGBA; TIFF with any number of channels) or an
    .npy array; for compressed-sensing, phase-retrieval, mri and ct, an .npy or .npz file of the measurement, as written by
    --simulate. Without INPUT, a bundled picture is degraded and solved. The output folder holds every sample; best.png, the
    sample closest to all others, and mean.png, their average; a map of their standard deviation; a comparison panel; the mask
    that was used (inpaint); and run.json, from which the run can be repeated.

    Several INPUTs are solved one after another with the same options, each into a folder of its own. One that fails is named,
    and the others are solved all the same; the exit code is then 1.
    """
    # Imported here, so that `invdiff solve --help` answers without torch.
    from invdiff.cli.several import solve_all
    from invdiff.cli.summary import summary
    from invdiff.restoration.record import to_json

    writing: dict[str, Any] = {name: settings.pop(name) for name in ("npz", "format", "format_quality")}
    writing["overwrite"] = overwrite
    if len(sources) > 1:
        solve_all(sources, settings, output, writing, as_json=as_json)
        return
    (source,) = sources or (None,)
    record = solve_file(source, settings, output, **writing)
    try:
        click.echo(to_json(record) if as_json else summary(record))
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        raise OSError(f"the summary could not be printed ({error.strerror}). The results are in {record['output']}.") from error


def solve_file(
    source: Path | None,
    settings: Mapping[str, Any],
    output: Path | None,
    *,
    overwrite: bool,
    npz: bool,
    format: str,  # noqa: A002 - the name of the option
    format_quality: int | None,
    score: ScoreModel | None = None,
    protected: Sequence[Path] = (),
) -> dict[str, Any]:
    """Solve one INPUT, write the results, and return the contents of its ``run.json``.

    Args:
        source: INPUT; ``None``: a bundled picture is degraded.
        settings: Values of the other options by name.
        output: Folder for the results, or ``None`` for the default.
        overwrite: Whether to replace earlier results there.
        npz: Whether to write the samples as floats.
        format: Format of the pictures.
        format_quality: Quality of JPEG files, or ``None`` for the default.
        score: The prior, if it is loaded already.
        protected: Files that the results must not replace, besides those that this run reads.
    """
    from tqdm.auto import tqdm

    from invdiff.cli.duration import duration
    from invdiff.io.printable import printable
    from invdiff.posterior.misfit import unwarned
    from invdiff.restoration import prepare
    from invdiff.restoration.folder import output_folder
    from invdiff.restoration.memory import gigabytes

    option = method_options(settings["option"], settings["method"])
    prior_option, progress = given_options(settings["prior_option"]), sys.stderr.isatty()
    job = prepare(source, settings, option=option, prior_option=prior_option, score=score, progress=progress)
    files = job.file_format(format, quality=format_quality)
    results = job.results(npz=npz, files=files)
    results = replace(results, inputs=(*results.inputs, *protected))
    with output_folder(output, job.measured.name, results, overwrite=overwrite) as place:
        for note in (*job.notes, *files.notes):
            click.echo(printable(note), err=True)

        def report(seconds: float, left: float) -> None:
            if left > SHORT:
                samples = "1 sample" if settings["samples"] == 1 else f"{settings['samples']} samples"
                memory = "" if job.memory is None else f", {gigabytes(job.memory)} of memory"
                tqdm.write(f"estimate: about {duration(seconds)} for {samples}{memory}", file=sys.stderr)

        with unwarned():  # printed as notes instead
            restored = job.run(progress=progress, report=report)
        for note in restored.notes:
            if note not in job.notes:
                click.echo(printable(note), err=True)
        return place.fill(lambda part, target: restored.write(part, target, npz=npz, files=files))


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
