"""Options of the commands that take a prior, and loading of the prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from invdiff.restoration.limits import LIMITS

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from invdiff.priors import ScoreModel

__all__ = ["PRIOR_OPTIONS", "check_text", "given_options", "load", "prior_option", "prior_options"]

ARGUMENTS = {
    "source": "--prior",
    "precision": "--precision",
    "device": "--device",
    "checkpointing": "--checkpointing",
    "compiled": "--compiled",
}
Command = TypeVar("Command", bound=Callable[..., Any])

prior_option = click.option(
    "--prior-option",
    multiple=True,
    metavar="NAME=VALUE",
    help="Option that a checkpoint does not specify, such as heads=8 or label=207; see `invdiff priors inspect`. Repeatable.",
)
OPTIONS = (
    click.option(
        "--prior",
        default="natural",
        help="Bundled prior, checkpoint file, diffusers folder or hub id; see `invdiff priors`. Or FILE.py:NAME, your own "
        "prior: this file is run as Python code. Loading a checkpoint runs no code.",
    ),
    prior_option,
    click.option(
        "--precision",
        type=click.Choice(("auto", "float32", "bfloat16", "float16")),
        default="auto",
        help="Precision of the network; auto selects bfloat16 if the processor has units for it.",
    ),
    click.option("--checkpointing", is_flag=True, help="Recompute activations for gradients: less memory, a third more time."),
    click.option("--compiled", is_flag=True, help="Compile the network, in a minute or more; for long runs on a GPU."),
    click.option(
        "--tile",
        type=click.IntRange(2, LIMITS["tile"]),
        help="Side of the windows in which the prior processes the image. Default: its training size, if fixed.",
    ),
    click.option(
        "--overlap",
        type=click.IntRange(0, LIMITS["overlap"]),
        help="Overlap of windows, in pixels. Default: a quarter.",
    ),
)
PRIOR_OPTIONS = ("prior", "prior_option", "precision", "checkpointing", "compiled", "tile", "overlap")


def prior_options(command: Command) -> Command:
    """Add the options to ``command``."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def given_options(texts: Sequence[str]) -> dict[str, Any]:
    """Parse ``--prior-option`` values: options by name."""
    given: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not (name and separator and value):
            raise click.UsageError(f"--prior-option {text}: expected NAME=VALUE, such as heads=8.")
        if name in given:
            raise click.UsageError(f"--prior-option {text}: {name} is given twice.")
        if name in ARGUMENTS:
            raise click.UsageError(f"--prior-option {text}: {name} is not an option of a checkpoint, use {ARGUMENTS[name]}.")
        given[name] = value
    return given


def load(settings: Mapping[str, Any], device: torch.device) -> ScoreModel:
    """Return the prior given by the options, to run on ``device``."""
    from invdiff.restoration.priors import find_prior

    names = ("precision", "checkpointing", "compiled", "tile", "overlap")
    given = given_options(settings["prior_option"])
    return find_prior(settings["prior"], device=device, given=given, **{name: settings[name] for name in names})


def check_text(out: Path) -> None:
    """Raise an error if the name of a safetensors file to be written is not text, since such a file could not be read."""
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise click.UsageError(f"--out {out}: expected a name in UTF-8, which safetensors files need.") from None
