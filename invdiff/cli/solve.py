"""``invdiff solve``: a measured image in, posterior samples out."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

# Written out because the help must not import torch; a test holds them to the registries.
PROBLEM_NAMES = (
    *("inpaint", "outpaint", "denoise", "deblur", "defocus", "motion-deblur", "sr"),
    *("colorize", "demosaic", "declip", "dequantize"),
)
METHOD_NAMES = (
    "auto",
    "mmps",
    "mm-tsmc",
    "pigdm",
    "dps",
    "ddnm",
    "ddnm+",
    "ddrm",
    "diffpir",
    "repaint",
    "ilvr",
    "snips",
    "dps-gaussian",
    "sda",
    "tmpd",
    "lgd-mc",
    "dmps",
    "score-ald",
    "mcg",
    "langevin",
    "unconditional",
    "daps",
    "pnp-dm",
    "red-diff",
    "tds",
    "mcg-diff",
    "fps-smc",
)

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
}
OPTIONS = (*(name for name in OWNERS if name != "mask"), "boundary", "downsampling")  # of which a problem is made
TASK = ("problem", "simulate", "mask", "mask_keep", "noise", "seed")

EPILOG = """\b
Examples:
  invdiff solve photo.png --problem inpaint --mask m.png  fill what is white in m.png
  invdiff solve photo.png --problem inpaint               fill what is transparent
  invdiff solve blurred.png --problem deblur --kernel psf.png --noise 0.01
  invdiff solve small.jpg --problem sr --factor 2 --noise 0.01 --samples 8 -o large
  invdiff solve photo.png --problem deblur --kernel gaussian:2 --noise 0.02 --simulate
  invdiff solve old.jpg --problem denoise --noise 0.1
  invdiff solve grey.png --problem colorize
  invdiff solve --problem sr --factor 4 --noise 0.01      degrade and solve a bundled photograph
"""
FILE = click.Path(path_type=Path)


def _known_problem(context: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is None and not context.resilient_parsing:
        needs = "".join(f"\n  {name:<13} needs {what}" for name, what in NEEDS.items())
        raise click.UsageError(f"--problem is missing: say what happened to the image.{needs}")
    return value


def _finite(context: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"expected a finite number, got {value}.")
    return value


def _finite_noise(context: click.Context, param: click.Parameter, value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise click.BadParameter(f"{value} is no standard deviation: expected a finite number, 0 or larger.")
    return value


@click.command(epilog=EPILOG, context_settings={"max_content_width": 110, "show_default": True})
@click.argument("source", metavar="[INPUT]", type=FILE, required=False)
@click.option(
    "--problem", type=click.Choice(PROBLEM_NAMES), callback=_known_problem, help="What happened to the image (required)."
)
@click.option("--mask", type=FILE, help="Image as large as INPUT, white where pixels are to be filled (inpaint).")
@click.option("--mask-keep", type=click.Choice(("black", "white")), default="black", help="Colour of the pixels to keep.")
@click.option(
    "--kernel", metavar="FILE|gaussian:SIGMA|motion:SIZE,ANGLE", help="Blur kernel: an image, .npy, or .npz:name (deblur)."
)
@click.option(
    "--boundary",
    type=click.Choice(("reflect", "zero", "circular")),
    default="reflect",
    help="What the blur saw beyond the border (deblur, defocus, motion-deblur).",
)
@click.option(
    "--radius",
    type=click.FloatRange(min=0, min_open=True),
    callback=_finite,
    help="Of the disc that a point becomes, in pixels (defocus).",
)
@click.option("--length", type=click.IntRange(min=3), help="Of the movement, an odd number of pixels (motion-deblur).")
@click.option(
    "--angle",
    type=float,
    callback=_finite,
    help="Of the movement, in degrees, anticlockwise from horizontal (motion-deblur).",
)
@click.option("--factor", type=click.IntRange(min=2), help="How many times smaller INPUT is than the image (sr).")
@click.option("--downsampling", type=click.Choice(("bicubic", "area")), default="bicubic", help="How it was made smaller (sr).")
@click.option("--margin", type=click.IntRange(min=1), help="Pixels to add on every side (outpaint).")
@click.option(
    "--pattern",
    type=click.Choice(("RGGB", "BGGR", "GRBG", "GBRG"), case_sensitive=False),
    help="Colours of the top left 2 x 2 pixels, row by row (demosaic).",
)
@click.option("--clip-low", type=float, callback=_finite, help="Value of all that is darker, pixels spanning 0..1 (declip).")
@click.option("--clip-high", type=float, callback=_finite, help="Value of all that is brighter, pixels spanning 0..1 (declip).")
@click.option("--levels", type=click.IntRange(2, 65536), help="Levels of a channel, black and white included (dequantize).")
@click.option(
    "--noise",
    type=float,
    default=0.0,
    callback=_finite_noise,
    help="Standard deviation of the noise in INPUT, pixels spanning 0..1. 0: exact.",
)
@click.option("--simulate", is_flag=True, help="INPUT is clean: degrade it, solve, and compare.")
@click.option("--samples", type=click.IntRange(min=1), default=4, help="Posterior samples to draw.")
@click.option(
    "--method", type=click.Choice(METHOD_NAMES), metavar="NAME", default="auto", help="Sampler; see `invdiff methods`."
)
@click.option(
    "--steps", type=click.IntRange(min=1), help="Steps of the reverse diffusion. Default: the problem's or method's own."
)
@click.option(
    "--rule", type=click.Choice(("ddpm", "ddim", "heun", "matched")), help="Step rule. Default: the problem's or method's own."
)
@click.option("--preset", type=click.Choice(("paper",)), help="Settings of --method as published for such a problem.")
@click.option("--option", multiple=True, metavar="NAME=NUMBER", help="Option of the method, such as zeta=0.5. Repeatable.")
@click.option("--prior", default="natural", help="Bundled prior or .safetensors file; see `invdiff priors`.")
@click.option(
    "--precision",
    type=click.Choice(("auto", "float32", "bfloat16")),
    default="auto",
    help="Of the network; auto takes bfloat16 where the processor has units for it.",
)
@click.option("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the samples and of simulated noise.")
@click.option("--chunk", type=click.IntRange(min=1), help="Samples worked on at a time. Default: what fits the memory.")
@click.option("-o", "--output", type=FILE, help="Folder for the results. Default: invdiff-out/NAME-PROBLEM.")
@click.option("--overwrite", is_flag=True, help="Replace earlier results in the output folder.")
@click.option("--npz", is_flag=True, help="Also write the samples as floats, posterior.npz.")
@click.option("--json", "as_json", is_flag=True, help="Print run.json instead of a summary.")
def solve(source: Path | None, output: Path | None, overwrite: bool, as_json: bool, **settings: Any) -> None:
    """Draw samples of what the measured image INPUT may have looked like.

    INPUT is an image file (PNG, JPEG, TIFF, WebP; 8 or 16 bits; grey, RGB, RGBA, in TIFF any number of channels) or an .npy
    array. Without INPUT a bundled photograph is degraded and solved. The output folder holds every sample, their mean, the map
    of their standard deviation, a panel to compare, and run.json, from which the run can be repeated.
    """
    check_needs(source, settings)
    # Imported here: `invdiff solve --help` answers without torch.
    from invdiff.cli.device import pick_device
    from invdiff.cli.output import output_folder, write_results
    from invdiff.cli.record import make_record, summary, to_json
    from invdiff.cli.task import make_task
    from invdiff.posterior import PosteriorSampler
    from invdiff.priors import load_prior

    device = pick_device(settings["device"])
    score = load_prior(settings["prior"], precision=settings["precision"], device=device)
    (channels, *_) = score.event_shape or (3,)
    options = {name: settings[name] for name in OPTIONS}
    task = make_task(source=source, channels=channels or 3, options=options, **{name: settings[name] for name in TASK})
    sampler = PosteriorSampler(score, task.op, **sampler_arguments(task.problem.recommended, settings))
    with output_folder(output, task.name, overwrite=overwrite) as (part, target):
        for note in task.notes:
            click.echo(note, err=True)
        post = sampler.run(
            task.y.to(device),
            num_samples=settings["samples"],
            seed=settings["seed"],
            chunk=settings["chunk"],
            progress=sys.stderr.isatty(),
        )
        results = task.finish(post.samples[:, 0].cpu())
        record = make_record(source, settings, task, score.describe(), post, results) | {"output": str(target)}
        write_results(part, task, post, results, record, arrays=settings["npz"])
    click.echo(to_json(record) if as_json else summary(record))


def check_needs(source: Path | None, settings: Mapping[str, Any]) -> None:
    problem, own = settings["problem"], [name for name, owner in OWNERS.items() if owner == settings["problem"]]
    for name, owner in OWNERS.items():
        if settings[name] is not None and problem != owner:
            raise click.UsageError(f"--{name.replace('_', '-')} belongs to --problem {owner}, not to {problem}.")
    given = [settings[name] is not None for name in own]
    enough = any(given) if problem == "declip" else all(given)
    # Whether INPUT has transparent pixels, which serve as a mask, is seen only when it is read.
    enough = enough or (problem == "inpaint" and source is not None)
    if not enough or (problem == "denoise" and settings["noise"] == 0):
        raise click.UsageError(f"--problem {problem} needs {NEEDS[problem]}.")
    if problem == "dequantize" and settings["noise"] > 0:
        raise click.UsageError("--noise does not go with --problem dequantize: the noise there is rounding to --levels.")


def sampler_arguments(recommended: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the sampler is built with: what was given, over what is recommended for the problem."""
    from invdiff.cli.methods import options_of
    from invdiff.methods import METHODS

    arguments = dict(recommended) if settings["method"] == "auto" else {"method": settings["method"]}
    if METHODS.get(settings["method"], METHODS["mmps"]).ratio_max is None and settings["preset"] is None:
        # Where to start is a matter of the pictures: beyond, the network's gradient is mostly error.
        arguments |= {"ratio_max": recommended["ratio_max"]}
    arguments |= {name: settings[name] for name in ("steps", "rule", "preset") if settings[name] is not None}
    chosen = arguments.get("method", "auto")
    method = METHODS["mmps" if chosen == "auto" else chosen]
    known = options_of(method)
    for text in settings["option"]:
        name, _, value = text.partition("=")
        if name not in known:
            raise click.UsageError(
                f"--option {text}: {method.name} has no option {name!r}, expected one of {', '.join(known)}."
            )
        kind = "a whole number" if isinstance(known[name], int) else "a number"
        try:
            arguments[name] = int(value) if isinstance(known[name], int) else float(value)
            if not math.isfinite(arguments[name]):
                raise ValueError
        except ValueError:
            raise click.UsageError(f"--option {text}: expected {kind}, such as {name}={known[name]}.") from None
    return arguments
