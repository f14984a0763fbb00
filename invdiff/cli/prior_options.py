"""The options of every command that takes a prior, and the prior they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    import torch

    from invdiff.priors import ScoreModel

__all__ = ["PRIOR_OPTIONS", "given_options", "load", "prior_option", "prior_options"]

ARGUMENTS = {"source": "--prior", "precision": "--precision", "device": "--device", "checkpointing": "--checkpointing"}
Command = TypeVar("Command", bound=Callable[..., Any])

prior_option = click.option(
    "--prior-option",
    multiple=True,
    metavar="NAME=VALUE",
    help="What a checkpoint does not say, such as heads=8 or label=207; see `invdiff priors inspect`. Repeatable.",
)
OPTIONS = (
    click.option(
        "--prior",
        default="natural",
        help="Bundled prior, checkpoint file, diffusers folder or hub id; see `invdiff priors`. Or FILE.py:NAME, a prior of "
        "your own: that file is run as Python code, which a checkpoint never is.",
    ),
    prior_option,
    click.option(
        "--precision",
        type=click.Choice(("auto", "float32", "bfloat16", "float16")),
        default="auto",
        help="Of the network; auto takes bfloat16 where the processor has units for it.",
    ),
    click.option(
        "--checkpointing", is_flag=True, help="Compute activations again for gradients: less memory, a third more time."
    ),
    click.option(
        "--tile",
        type=click.IntRange(min=2),
        help="Side of the windows through which the prior sees the image. Default: the size it was trained for, if any.",
    ),
    click.option("--overlap", type=click.IntRange(min=0), help="Pixels that windows share. Default: a quarter of a window."),
)
PRIOR_OPTIONS = ("prior", "prior_option", "precision", "checkpointing", "tile", "overlap")


def prior_options(command: Command) -> Command:
    """Give ``command`` the options."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def given_options(texts: Sequence[str]) -> dict[str, Any]:
    """Return what ``--prior-option`` gave, by name."""
    given: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not (name and separator and value):
            raise click.UsageError(f"--prior-option {text}: expected NAME=VALUE, such as heads=8.")
        if name in given:
            raise click.UsageError(f"--prior-option {text}: {name} is given twice.")
        if name in ARGUMENTS:
            raise click.UsageError(f"--prior-option {text}: is no option of a checkpoint, see {ARGUMENTS[name]}.")
        given[name] = value
    return given


def load(settings: Mapping[str, Any], device: torch.device) -> ScoreModel:
    """Return the prior that the options name, on the way to ``device``."""
    from invdiff.restoration.priors import find_prior

    names = ("precision", "checkpointing", "tile", "overlap")
    given = given_options(settings["prior_option"])
    return find_prior(settings["prior"], device=device, given=given, **{name: settings[name] for name in names})
