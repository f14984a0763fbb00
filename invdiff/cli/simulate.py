"""``invdiff simulate``: measurements of clean images, with a file that describes the operator."""

from __future__ import annotations

import copy
import logging
import shlex
from pathlib import Path
from typing import Any

import click

from invdiff.cli.messages import MESSAGE_OPTIONS, is_quiet, log_settings, message_options, note, shows_bars
from invdiff.cli.problem_options import ProblemCommand
from invdiff.cli.solve import solve
from invdiff.io.printable import printable

__all__ = ["FORMATS", "simulate"]

# Formats of measured pictures; a test compares them with those of invdiff.study.simulation.
FORMATS = ("npy", "png", "png16")
SHARED = ("problem", "noise")
NOISE = (
    "Noise to add, pixels spanning 0..1: standard deviation (0: none), or another distribution; PEAK: photons at white. "
    "Default: 0."
)
SECTIONS = {
    "Problem": ("problem",),
    "Noise": ("noise", "seed"),
    "Output": ("output", "overwrite", "format", *MESSAGE_OPTIONS),
}
EPILOG = """\b
Examples:
  invdiff simulate photos/ --problem inpaint --mask m.png --noise 0.02 -o sim
  invdiff simulate photos/ --problem sr --factor 4 --noise 0.01 -o small
  invdiff simulate photo.png --problem deblur --kernel psf.png --noise 0.02 -o blurred
  invdiff simulate phantoms/ --problem mri --acceleration 4 --noise 0.01 -o scans
  invdiff solve sim/measurements/1.npy --operator sim/operator.json -o restored
"""


@click.command(
    cls=ProblemCommand,
    sections=SECTIONS,
    simulated=True,
    epilog=EPILOG,
    context_settings={"max_content_width": 110, "show_default": True},
)
@click.argument("clean", metavar="CLEAN", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, help="Random seed of the noise. Each image has noise of its own."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for the measurements.")
@click.option("--overwrite", is_flag=True, help="Replace measurements made with other settings in the output folder.")
@click.option(
    "--format",
    type=click.Choice(FORMATS),
    show_default=False,
    help="Format of measured pictures. npy: exact, floats on the 0..1 scale. png, png16: clipped, and rounded to 8 or 16 bits. "
    "Default: npy.",
)
@message_options
def simulate(clean: Path, output: Path, overwrite: bool, **settings: Any) -> None:
    """Measure clean images: CLEAN is an image, or a folder of images, which may be in folders.

    The output folder has measurements/NAME for every image, operator.json, which describes the operator and the noise, and
    images.jsonl, a line for every image with the seed of its noise. Measured pictures are .npy files of floats on the 0..1
    scale, neither clipped nor rounded; measurements that are no pictures are .npz files. `invdiff solve NAME --operator
    operator.json` takes exactly this operator and this noise level. Problems that crop or convert clean images also write them
    as they were measured, reference/NAME, to compare with by `invdiff evaluate --reference`.

    An image that fails is named, and the others are measured all the same; the exit code is then 1. A second run with the same
    settings measures only what is missing or has changed.
    """
    # Imported here, so that `invdiff simulate --help` answers without torch.
    from tqdm import tqdm

    from invdiff.io.paths import refuse_inputs
    from invdiff.study.listing import PICTURES, Item, list_items
    from invdiff.study.simulation import IMAGES, MEASUREMENTS, OPERATOR, REFERENCE, Simulation

    log_settings("simulate", {"clean": clean, "output": output, **settings})
    single = (Item(clean.name, clean, 1, clean.stem),)
    images = list_items(clean, PICTURES).items if clean.is_dir() else single
    if not images:
        raise click.ClickException(f"{clean}: holds no images, expected a folder of images.")
    if clean.is_dir() and output.resolve().is_relative_to(clean.resolve()):
        raise click.UsageError(f"-o {output}: is in the folder {clean} of clean images. Choose a folder elsewhere.")
    simulation = Simulation.prepare(settings, output)
    refuse_inputs([output / OPERATOR, output / IMAGES], simulation.named.values(), "Choose another folder with -o.")
    failures, notes, done = dict[str, str](), dict[str, int](), list[str]()
    with tqdm(total=len(images), unit="image", disable=not shows_bars(), leave=False) as bar:

        def report(line: dict[str, Any]) -> None:
            if line["state"] == "failed":
                name, reason = line["name"], line["error"]
                failures[name] = reason if name in reason else f"{name}: {reason}"
                note(f"failed: {failures[name]}", level=logging.ERROR)
            else:
                done.append(line["measurement"])
                for text in line["notes"]:
                    notes[text] = notes.get(text, 0) + 1
            bar.update()

        simulation.run(images, overwrite=overwrite, report=report)
    for text, count in notes.items():
        note(text if count == 1 else f"{text} ({count} images)")
    if done and not is_quiet():
        lines = {
            "measured": f"{len(done)} of {len(images)} images, in {output / MEASUREMENTS}",
            "operator": str(output / OPERATOR),
            **({"compare": f"{output / REFERENCE}: the clean images as they were measured"} if _converted(simulation) else {}),
            "then": shlex.join(["invdiff", "solve", str(output / done[0]), "--operator", str(output / OPERATOR)]),
        }
        click.echo("\n".join(f"{name:<9} {printable(line)}" for name, line in lines.items()))
    if failures:
        raise click.ClickException(f"{len(failures)} of {len(images)} images failed. {' '.join(failures.values())}")


def _converted(simulation: Any) -> bool:
    from invdiff.problems import Problem

    return simulation.kind.fit is not Problem.fit


def _as_in_solve() -> list[click.Parameter]:
    shared = []
    for parameter in solve.params:
        if parameter.name in SHARED:
            parameter = copy.copy(parameter)
            if isinstance(parameter, click.Option) and parameter.name == "noise":
                parameter.help, parameter.show_default = NOISE, False
                parameter.metavar = "SIGMA|poisson:PEAK[,SIGMA]|laplace:SCALE|student:SCALE,DOF"
            shared.append(parameter)
    return shared


simulate.params[1:1] = _as_in_solve()
