"""Options of the commands that take a prior, and loading of the prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from invdiff.restoration.limits import LIMITS

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from invdiff.priors import ScoreModel

__all__ = ["PRIOR_OPTIONS", "SHORT_OPTIONS", "check_text", "given_options", "load", "prior_option", "prior_options"]

ARGUMENTS = {
    "source": "--prior",
    "precision": "--precision",
    "device": "--device",
    "checkpointing": "--checkpointing",
    "compiled": "--compiled",
}
Command = TypeVar("Command", bound=Callable[..., Any])

TEXTS = ("prompt", "negative_prompt")  # options whose values may be empty

SHORT = "invdiff.short_prior_options"  # key in the metadata of a click context


def _short(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Take an option that is short for a ``--prior-option``, whichever of the two comes first."""
    if value is None:
        return
    text = f"{param.name}={value:g}" if isinstance(value, float) else f"{param.name}={value}"
    ctx.meta.setdefault(SHORT, []).append(text)
    if "prior_option" in ctx.params:
        ctx.params["prior_option"] = _joined(ctx, ctx.params["prior_option"], [text])


def _with_short(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    return _joined(ctx, value, ctx.meta.get(SHORT, []))


def _joined(ctx: click.Context, given: Sequence[str], short: Sequence[str]) -> tuple[str, ...]:
    """Return all options. Those of a record are replaced by those of the command line."""
    if short and ctx.get_parameter_source("prior_option") is not ParameterSource.COMMANDLINE:
        names = {text.partition("=")[0] for text in short}
        given = [text for text in given if text.partition("=")[0] not in names]
        ctx.set_parameter_source("prior_option", ParameterSource.COMMANDLINE)
    return (*given, *short)


prior_option = click.option(
    "--prior-option",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_with_short,
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
        "--label", metavar="N", expose_value=False, callback=_short, help="Class to sample, for class-conditional networks."
    ),
    click.option(
        "--prompt",
        metavar="TEXT",
        expose_value=False,
        callback=_short,
        help="Text that describes the image, for pipelines conditioned on one (Stable Diffusion, Flux, DeepFloyd IF, unCLIP).",
    ),
    click.option(
        "--negative-prompt",
        metavar="TEXT",
        expose_value=False,
        callback=_short,
        help="Text that describes what the image is not, with --guidance-scale.",
    ),
    click.option(
        "--guidance-scale",
        type=float,
        metavar="W",
        expose_value=False,
        callback=_short,
        help="Classifier-free guidance to the prompt, or, with --null-label, to the class: 1 is Bayes' rule, more follows it "
        "more closely.",
    ),
    click.option(
        "--null-label",
        metavar="N",
        expose_value=False,
        callback=_short,
        help="Label that stood for no class in the training of the network, or none.",
    ),
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
SHORT_OPTIONS = ("label", "prompt", "negative_prompt", "guidance_scale", "null_label")  # each is short for a --prior-option


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
        if not (name and separator and (value or name in TEXTS)):
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
