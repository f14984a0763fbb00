"""The prior that a name, a file, or an object stands for."""

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
from invdiff.registry import Registry

__all__ = ["PRIORS", "find_prior"]


def _adopt(name: str, thing: Any) -> ScoreModel:
    found = thing() if callable(thing) and not isinstance(thing, ScoreModel) else thing
    if not isinstance(found, ScoreModel):
        raise TypeError(f"{name} is no prior: expected a ScoreModel, or a function or class that returns one, got {found!r}.")
    return found


# Those of a person's own: of installed packages, and in a .py file, which is run. Checkpoints are no part of it: reading one
# runs no code.
PRIORS: Registry[ScoreModel] = Registry("prior", {}, _adopt, group="invdiff.priors")


def find_prior(
    prior: str | os.PathLike[str] | ScoreModel,
    *,
    device: torch.device,
    precision: str = "auto",
    checkpointing: bool = False,
    tile: int | None = None,
    overlap: int | None = None,
    given: Mapping[str, Any] | None = None,
) -> ScoreModel:
    """Return the prior that ``prior`` stands for.

    Args:
        prior: What :func:`~invdiff.priors.load_prior` takes; or ``mine.py:my_prior``, a :class:`~invdiff.priors.ScoreModel` or
            what returns one, in a file of Python code, which is run; or the name that an installed package gave it; or the
            prior itself.
        device: Where it will run.
        precision: Of the network of a checkpoint.
        checkpointing: Whether gradients compute its activations again.
        tile: Side of the windows through which it sees the image.
        overlap: Pixels that windows share.
        given: What a checkpoint does not say.

    Raises:
        OptionError: If windows are wanted that have no size.
        ValueError: If there is no such prior.
    """
    score: ScoreModel
    if isinstance(prior, ScoreModel):
        score = prior
    elif str(prior) not in BUNDLED and (prior in PRIORS or str(prior).rpartition(":")[0].endswith(".py")):
        score = PRIORS.find(str(prior))
    else:
        name = Path(prior) if isinstance(prior, os.PathLike) else prior
        score = priors.load_prior(name, precision=precision, device=device, checkpointing=checkpointing, **(given or {}))
    if tile is None and overlap is None:
        return score
    if tile is None and None in (score.event_shape or ())[1:]:
        raise OptionError("--overlap: this prior takes images of any size, so windows need --tile.")
    return Tiled(score, tile=tile, overlap=overlap)
