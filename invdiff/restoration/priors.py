"""Lookup of priors by name, file or object."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from invdiff import priors
from invdiff.priors import ScoreModel, Tiled
from invdiff.priors.save import BUNDLED
from invdiff.problems import OptionError
from invdiff.registry import Registry, raised
from invdiff.restoration.checks import check_mapping

__all__ = ["PRIORS", "find_prior"]

# Arguments of load_prior that are settings of their own.
ARGUMENTS = {
    "source": "prior",
    "precision": "precision",
    "device": "device",
    "checkpointing": "checkpointing",
    "compiled": "compiled",
    "errors": "priors.load_prior",
}


def _adopt(name: str, thing: Any) -> ScoreModel:
    try:
        found = thing() if callable(thing) and not isinstance(thing, ScoreModel) else thing
    except Exception as error:  # whatever somebody's code raises
        raise ValueError(f"prior {name}: it was called without arguments and raised {raised(error)}") from error
    if not isinstance(found, ScoreModel):
        raise TypeError(f"{name} is not a prior: expected a ScoreModel, or a function or class returning one, got {found!r}.")
    if not hasattr(found, "schedule"):
        raise TypeError(f"prior {name}: {type(found).__name__} has no schedule. Set self.schedule in __init__.")
    shape = found.event_shape
    if shape is not None and not _is_shape(shape):
        raise TypeError(f"prior {name}: event_shape must be None or a tuple (C, H, W) of integers or None, got {shape!r}.")
    return found


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, tuple) and all(side is None or (isinstance(side, int) and side > 0) for side in shape)


# User-defined priors: those of installed packages, and those in .py files, which are executed. Checkpoints are not in this
# table: reading one executes no code.
PRIORS: Registry[ScoreModel] = Registry("prior", {}, _adopt, group="invdiff.priors")


def find_prior(
    prior: str | os.PathLike[str] | ScoreModel,
    *,
    device: torch.device,
    precision: str = "auto",
    checkpointing: bool = False,
    compiled: bool = False,
    tile: int | None = None,
    overlap: int | None = None,
    given: Mapping[str, Any] | None = None,
) -> ScoreModel:
    """Return the prior described by ``prior``.

    Args:
        prior: A source for :func:`~invdiff.priors.load_prior`; a place such as ``mine.py:my_prior``, where a file of Python
            code, which is executed, has a :class:`~invdiff.priors.ScoreModel` or a function or class that returns one; an
            entry point name of an installed package; or a prior.
        device: Device that the prior will run on.
        precision: Precision of the network of a checkpoint.
        checkpointing: Whether to recompute the activations of a checkpoint's network for gradients.
        compiled: Whether to compile a checkpoint's network.
        tile: Side of the windows in which the prior processes the image, in pixels.
        overlap: Overlap of neighboring windows, in pixels.
        given: Options of a checkpoint that its file does not specify.

    Raises:
        OptionError: If an overlap is given and the size of the windows is unknown, or a name in ``given`` is that of a setting.
        TypeError: If ``prior`` is none of these.
        ValueError: If there is no such prior.
    """
    given = check_mapping("prior_option", given, like={"heads": 8})
    for name in given:
        if name in ARGUMENTS:
            raise OptionError(f"prior_option: {name} is not an option of a checkpoint, use {ARGUMENTS[name]}.")
    score: ScoreModel
    if isinstance(prior, ScoreModel):
        score = prior
    elif not isinstance(prior, str | os.PathLike):
        raise TypeError(
            f"prior: expected a name, the path of a checkpoint, or a ScoreModel, got {type(prior).__name__}. A network becomes "
            "one by invdiff.priors.from_network."
        )
    elif str(prior) not in BUNDLED and (prior in PRIORS or str(prior).rpartition(":")[0].endswith(".py")):
        score = PRIORS.find(str(prior))
    else:
        place: str | Path = prior if isinstance(prior, str) else Path(prior)
        how: dict[str, Any] = {"precision": precision, "checkpointing": checkpointing, "compiled": compiled}
        score = priors.load_prior(place, device=device, **how, **given)
    if score.latent and (tile is not None or overlap is not None):
        raise OptionError("--tile: windows of a latent prior are those of its training size. Leave --tile and --overlap out.")
    if tile is None and overlap is None:
        return score
    if tile is None and None in (score.event_shape or ())[1:]:
        raise OptionError("--overlap: this prior takes images of any size, so windows need --tile.")
    return Tiled(score, tile=tile, overlap=overlap)
