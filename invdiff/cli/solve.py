"""``invdiff solve``: a measured image in, posterior samples out."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from invdiff.cli.prior_options import load, prior_options
from invdiff.cli.problem_options import OPTIONS, check_needs, problem_options

if TYPE_CHECKING:
    from invdiff.cli.calibration_file import Spread
    from invdiff.cli.task import Task
    from invdiff.operators import Operator
    from invdiff.posterior import PosteriorSampler
    from invdiff.priors import ScoreModel
    from invdiff.problems import Problem

# Written out because the help must not import torch; a test holds them to the registry.
METHOD_NAMES = (
    "auto",
    "mmps",
    "exact-score",
    "handover",
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

TASK = ("problem", "simulate", "mask", "mask_keep", "noise", "seed")

QUALITIES = ("fast", "balanced", "best")

# Levels of interval maps, in percent; a test holds them to those that calibration files have.
INTERVALS = ("50", "68", "80", "90", "95")

EPILOG = """\b
Examples:
  invdiff solve photo.png --problem inpaint --mask m.png  fill what is white in m.png
  invdiff solve photo.png --problem inpaint               fill what is transparent
  invdiff solve blurred.png --problem deblur --kernel psf.png --noise 0.01
  invdiff solve small.jpg --problem sr --factor 2 --noise 0.01 --samples 8 -o large
  invdiff solve photo.png --problem deblur --kernel gaussian:2 --noise 0.02 --simulate
  invdiff solve old.jpg --problem denoise --noise 0.1
  invdiff solve grey.png --problem colorize
  invdiff solve photo.jpg --problem dejpeg                the tables are in the file
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


@click.command(epilog=EPILOG, context_settings={"max_content_width": 110, "show_default": True})
@click.argument("source", metavar="[INPUT]", type=FILE, required=False)
@problem_options
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
@click.option(
    "--quality",
    type=click.Choice(QUALITIES),
    help="How long to work for a better result; says how long it takes. Default: balanced.",
    show_default=False,
)
@click.option("--preset", type=click.Choice(("paper",)), help="Settings of --method as published for such a problem.")
@click.option("--option", multiple=True, metavar="NAME=VALUE", help="Option of the method, such as zeta=0.5. Repeatable.")
@prior_options
@click.option("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the samples and of simulated noise.")
@click.option("--chunk", type=click.IntRange(min=1), help="Samples worked on at a time. Default: what fits the memory.")
@click.option("-o", "--output", type=FILE, help="Folder for the results. Default: invdiff-out/NAME-PROBLEM.")
@click.option("--overwrite", is_flag=True, help="Replace earlier results in the output folder.")
@click.option(
    "--calibration",
    type=FILE,
    metavar="FILE|natural",
    help="Of `invdiff calibrate --save`: scales std and intervals to what held the truth there. natural: of the bundled prior.",
)
@click.option(
    "--intervals",
    type=click.Choice(INTERVALS),
    help="Also write low and high, ends of intervals for so many percent of the values. Default: 90 with --calibration.",
)
@click.option("--npz", is_flag=True, help="Also write the samples as floats, posterior.npz.")
@click.option("--json", "as_json", is_flag=True, help="Print run.json instead of a summary.")
def solve(source: Path | None, output: Path | None, overwrite: bool, as_json: bool, **settings: Any) -> None:
    """Draw samples of what the measured image INPUT may have looked like.

    INPUT is an image file (PNG, JPEG, TIFF, WebP; 8 or 16 bits; grey, RGB, RGBA, in TIFF any number of channels) or an .npy
    array; for compressed-sensing, phase-retrieval, mri and ct an .npy or .npz file of what was measured, as --simulate writes
    one. Without INPUT a bundled picture is degraded and solved. The output folder holds every sample, their mean, the map
    of their standard deviation, a panel to compare, and run.json, from which the run can be repeated.
    """
    check_needs(source, settings, simulated=source is None or settings["simulate"])
    for name in ("calibration", "intervals"):
        if settings[name] is not None and settings["samples"] < 2:
            raise click.UsageError(f"--{name} takes --samples 2 or more: one sample has no spread.")
    # Imported here: `invdiff solve --help` answers without torch.
    from invdiff.cli.device import pick_device
    from invdiff.cli.duration import duration, estimate
    from invdiff.cli.output import output_folder, write_results
    from invdiff.cli.record import make_record, summary, to_json
    from invdiff.cli.task import make_task
    from invdiff.posterior import PosteriorSampler

    device = pick_device(settings["device"])
    score = load(settings, device)
    (channels, *_) = score.event_shape or (3,)
    options = {name: settings[name] for name in OPTIONS}
    task = make_task(source=source, channels=channels or 3, options=options, **{name: settings[name] for name in TASK})
    sampler = PosteriorSampler(score, task.op, **sampler_arguments(task.problem, score, task.op, settings))
    spread = _spread(task, sampler, settings)
    with output_folder(output, task.name, overwrite=overwrite) as (part, target):
        for note in (*sampler.notes, *task.notes, *(spread.notes if spread else ())):
            click.echo(note, err=True)
        if settings["quality"] is not None:
            seconds = estimate(sampler, task.y.to(device), settings["samples"])
            click.echo(f"{settings['quality']}: {settings['samples']} samples, about {duration(seconds)}", err=True)
        post = sampler.run(
            task.y.to(device),
            num_samples=settings["samples"],
            seed=settings["seed"],
            chunk=settings["chunk"],
            progress=sys.stderr.isatty(),
        )
        results = task.finish(post.samples[:, 0].cpu())
        record = make_record(source, settings, task, sampler, post, results) | {"output": str(target)}
        if spread is not None:
            record |= {"notes": [*record["notes"], *spread.notes], "spread": spread.record}
        write_results(part, task, post, results, record, arrays=settings["npz"], spread=spread)
    click.echo(to_json(record) if as_json else summary(record))


def _spread(task: Task, sampler: PosteriorSampler, settings: Mapping[str, Any]) -> Spread | None:
    """Return how the spread of the samples is to be shown, where --calibration or --intervals ask for more than it is."""
    from invdiff.cli.calibration_file import INTERVAL, LEVELS, Spread, read_spread, settings_of

    if settings["calibration"] is None and settings["intervals"] is None:
        return None
    level = INTERVAL if settings["intervals"] is None else LEVELS[INTERVALS.index(settings["intervals"])]
    if settings["calibration"] is None:
        return Spread.plain(level, settings["samples"])
    return read_spread(
        settings["calibration"],
        settings["problem"],
        level=level,
        settings=settings_of(task.problem, sampler, settings),
        prior=sampler.score.describe(),
    )


def sampler_arguments(problem: Problem, score: ScoreModel, op: Operator, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the sampler is built with: what was given, over what solves the problem best under the prior."""
    from invdiff.cli.methods import options_of
    from invdiff.methods import METHODS

    quality = settings.get("quality")
    others = [name for name in ("method", "steps", "rule", "preset", "option") if settings[name] not in (None, (), "auto")]
    if quality is not None and others:
        raise click.UsageError(f"--quality decides the method and its settings: leave out --{others[0]}, or --quality.")
    # Options without a method are those of mmps, which takes every measurement.
    recommended = problem.recommended if settings["option"] else problem.settings(score, op, quality=quality or "balanced")
    arguments = dict(recommended) if settings["method"] == "auto" else {"method": settings["method"]}
    named = METHODS.get(settings["method"])
    if named is not None and named.ratio_max is None and not named.starts_high and settings["preset"] is None:
        # Where to start is a matter of the pictures: beyond, the network's gradient is mostly error.
        arguments |= {"ratio_max": problem.recommended["ratio_max"]}
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
        if isinstance(known[name], str):
            arguments[name] = value
            continue
        kind = "a whole number" if isinstance(known[name], int) else "a number"
        try:
            arguments[name] = int(value) if isinstance(known[name], int) else float(value)
            if not math.isfinite(arguments[name]):
                raise ValueError
        except ValueError:
            raise click.UsageError(f"--option {text}: expected {kind}, such as {name}={known[name]}.") from None
    return arguments
