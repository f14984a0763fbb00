"""``invdiff solve``: draw posterior samples for a measured image."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import click

from invdiff.cli.messages import MESSAGE_OPTIONS, is_quiet, log_settings, message_options
from invdiff.cli.prior_options import PRIOR_OPTIONS, SHORT_OPTIONS, prior_options
from invdiff.cli.problem_options import CHOSEN, NOISE_OPTION, PROBLEM_OPTION, NameType
from invdiff.cli.recorded_options import RecordedCommand, recorded_settings
from invdiff.cli.solve_file import solve_file

__all__ = ["FORMATS", "INTERVALS", "QUALITIES", "QUALITY", "SAMPLER", "solve"]

QUALITIES = ("fast", "balanced", "best")

# Levels of interval maps, in percent; a test compares them with those of calibration files.
INTERVALS = ("50", "68", "80", "90", "95")

# Formats of files of results; a test compares them with those of invdiff.restoration.formats.
FORMATS, QUALITY = ("png", "jpg", "tiff", "webp", "input"), 95

SAMPLER = ("method", "steps", "rule", "quality", "preset", "option")
SECTIONS = {
    "Problem": ("problem", "operator", "simulate", "slice", "coupling", "page", "window", "black", "white"),
    "Noise": ("noise",),
    "Sampler": ("samples", *SAMPLER, "windows", "seed", "first_sample", "chunk", "device"),
    "Prior": (*PRIOR_OPTIONS, *SHORT_OPTIONS),
    "Folder": ("shard", "batch", "tar"),
    "Output": (
        "output",
        "overwrite",
        "format",
        "format_quality",
        "strip",
        "anonymize",
        "keep",
        "calibration",
        "intervals",
        "npz",
        "as_json",
    ),
    "Other": ("config", *MESSAGE_OPTIONS),
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
  invdiff solve scan.dcm --problem denoise --noise auto --window -160 240      a DICOM file in, DICOM files out
  invdiff solve brain.nii.gz --problem denoise --noise auto --slice 60:80      slices of a volume
  invdiff solve m31.fits --problem inpaint                fills what is NaN
  invdiff solve 1.jpg 2.jpg 3.jpg --problem sr --factor 2 -o large --format jpg
  invdiff solve album --problem inpaint --mask masks -o restored     every picture, with the mask of its name
  invdiff solve album --problem denoise --noise auto -o restored --keep best,mean
  torchrun --nproc-per-node 4 -m invdiff solve album --problem dejpeg -o restored
  invdiff solve --config out/run.json                     repeats a run; options that are given win
"""
FILE = click.Path(path_type=Path)


def _no_operator(context: click.Context, param: click.Parameter, value: Path | None) -> None:
    """Refuse what is left of ``--operator`` once files of simulations have been taken off, see :class:`RecordedCommand`."""
    if value is not None and not context.resilient_parsing:
        chosen = context.meta.get(CHOSEN)
        other = "" if chosen is None else f" belongs to --problem operator, not to {chosen}."
        raise click.UsageError(f"--operator{other or f' {value}:'} Expected operator.json of `invdiff simulate`.", context)


def _window(context: click.Context, param: click.Parameter, value: tuple[float, float] | None) -> None:
    """Set ``--black`` and ``--white`` to the ends of a window."""
    if value is None:
        return
    for name, end in zip(("black", "white"), value, strict=True):
        if context.params.get(name) is not None:
            raise click.UsageError(f"--{name} and --window both give the level of {name}. Leave one out.", context)
        context.params[name] = end


@click.command(
    cls=RecordedCommand, sections=SECTIONS, epilog=EPILOG, context_settings={"max_content_width": 110, "show_default": True}
)
@click.argument("sources", metavar="[INPUT]...", type=FILE, nargs=-1)
@PROBLEM_OPTION
@NOISE_OPTION
@click.option(
    "--operator",
    type=FILE,
    metavar="operator.json",
    expose_value=False,
    callback=_no_operator,
    help="File of `invdiff simulate`: INPUT is a measurement beside it. Problem, its options and the noise are those there.",
)
@click.option(
    "--slice",
    metavar="N|A:B|all",
    help="Slices of a volume, pages of a stack or frames of a clip to restore, counted from 1. Default: all. A folder with a "
    "DICOM series is a volume if this is given.",
    show_default=False,
)
@click.option(
    "--coupling",
    type=float,
    metavar="TAU",
    help="Makes neighboring slices alike: typical difference of the same pixel in neighbors, pixels spanning 0..1. All slices "
    "are then sampled together, in memory.",
)
@click.option("--page", type=click.IntRange(min=1), metavar="N", help="Page of a TIFF file of several pages, counted from 1.")
@click.option("--simulate", is_flag=True, help="INPUT is clean: degrade it, solve, and compare.")
@click.option("--black", type=float, metavar="LEVEL", help="Value of black in the units of INPUT. Default: 0.")
@click.option(
    "--white",
    type=float,
    metavar="LEVEL",
    help="Value of white, such as 4095 for 12-bit data. Default: 255 or 65535 for integers, 1 for floats.",
)
@click.option(
    "--window",
    type=float,
    nargs=2,
    expose_value=False,
    callback=_window,
    metavar="LOW HIGH",
    help="Black and white in the units of INPUT, such as HU; the same as --black LOW --white HIGH. Default for files with "
    "units: the window of the header, or the range of the values.",
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
    "--shard",
    metavar="I/N",
    help="For a folder: do the share I of N, from 0. Default: that of torchrun, a Slurm array, or RANK and WORLD_SIZE.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 1024),
    help="For a folder: pictures of one size sampled together. Default: 1 on a processor, what fits on a GPU.",
)
@click.option(
    "--tar",
    type=click.IntRange(min=1),
    metavar="N",
    help="For a folder: pack the results of N pictures in one tar file each, in the naming of WebDataset.",
)
@click.option(
    "--format",
    type=click.Choice(FORMATS),
    help="Format of samples, mean and intervals; input: that of INPUT. jpg changes pixels a little; jpg and webp hold 8 bits. "
    "Default: input for files with units (see `invdiff formats`), png for others.",
    show_default=False,
)
@click.option(
    "--format-quality",
    type=click.IntRange(1, 100),
    help=f"Quality of JPEG files. Default: {QUALITY}.",
)
@click.option(
    "--strip", is_flag=True, help="Write no EXIF data (place, date, camera, names); color profile and resolution are kept."
)
@click.option(
    "--anonymize",
    is_flag=True,
    help="Leave out what tells who was measured: of a DICOM header only what the image needs is written. Implies --strip.",
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
@click.option(
    "--keep",
    metavar="PART[,PART]...",
    help="What is written: some of samples, best, mean, std, comparison and quantiles (5, 50 and 95 %). Default: all but "
    "quantiles. Samples that were not kept can be drawn again from run.json.",
)
@click.option("--npz", is_flag=True, help="Also write the samples as floats, posterior.npz.")
@click.option(
    "--config",
    type=FILE,
    metavar="run.json",
    expose_value=False,
    help="Record of an earlier run: its settings and INPUT are the defaults of all options. Files are found by their digests.",
)
@message_options
@click.option("--json", "as_json", is_flag=True, help="Print run.json, with time and memory, instead of a summary.")
def solve(
    sources: tuple[Path, ...],
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    shard: str | None,
    batch: int | None,
    tar: int | None,
    **settings: Any,
) -> None:
    """Draw posterior samples of the image behind the measurement INPUT.

    INPUT is an image file (PNG, JPEG, TIFF, WebP; 8 or 16 bits; grayscale, RGB, RGBA; TIFF with any number of channels) or an
    .npy array; for compressed-sensing, phase-retrieval, mri and ct, an .npy or .npz file of the measurement, as written by
    --simulate. Without INPUT, a bundled picture is degraded and solved. The output folder holds every sample; best.png, the
    sample closest to all others, and mean.png, their average; a map of their standard deviation; a comparison panel; the mask
    that was used (inpaint); and run.json, from which the run can be repeated.

    A folder as INPUT is restored picture by picture, with the folders in it; masks or kernels are paired by name if they are in
    a folder too. The output folder gets a folder for each picture, and manifest.jsonl. Run again, the command does what is
    missing, has failed or has changed: pictures, settings or prior. --overwrite does all again.

    Several INPUTs are solved one after another with the same options, each into a folder of its own. One that fails is named,
    and the others are solved all the same; the exit code is then 1.
    """
    # Imported here, so that `invdiff solve --help` answers without torch.
    from invdiff.cli.several import solve_all
    from invdiff.cli.solve_volume import solve_volume, volume_of
    from invdiff.cli.summary import summary
    from invdiff.restoration.record import to_json

    earlier = recorded_settings(click.get_current_context())
    log_settings("solve", {"input": " ".join(map(str, sources)), "output": output, **settings})
    writing: dict[str, Any] = {
        name: settings.pop(name) for name in ("npz", "format", "format_quality", "keep", "strip", "anonymize")
    }
    folders = [source for source in sources if source.is_dir() and settings["slice"] is None]
    if len(sources) > 1 and folders:
        raise click.UsageError(f"{folders[0]} is a folder: expected one folder as INPUT, or pictures.")
    if folders:
        from invdiff.cli.solve_folder import solve_folder

        with earlier.names():
            solve_folder(
                folders[0], settings, output, writing, overwrite=overwrite, shard=shard, batch=batch, tar=tar, as_json=as_json
            )
        return
    for flag, value in {"--shard": shard, "--batch": batch, "--tar": tar}.items():
        if value is not None:
            raise click.UsageError(f"{flag} is for a folder as INPUT.")
    writing["overwrite"] = overwrite
    if len(sources) > 1:
        with earlier.names():
            solve_all(sources, settings, output, writing, as_json=as_json)
        return
    (source,) = sources or (earlier.source,)
    numbers = volume_of(source, settings)
    if numbers is None and settings["coupling"] is not None:
        raise click.UsageError("--coupling is for several slices of a volume, a stack or a clip.")
    if numbers is not None:
        with earlier.names():
            record = solve_volume(source, settings, numbers, output, **writing)
        if as_json or not is_quiet():
            click.echo(to_json(record) if as_json else summary(record))
        return
    with earlier.names():
        record = solve_file(source, settings, output, **writing, compare=earlier.compare, facts=earlier.facts)
    try:
        if as_json or not is_quiet():
            click.echo(to_json(record) if as_json else summary(record))
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        raise OSError(f"the summary could not be printed ({error.strerror}). The results are in {record['output']}.") from error
