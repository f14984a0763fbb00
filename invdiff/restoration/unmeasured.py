"""Pixels of INPUT that were not measured: NaN in a FITS image, padding in a DICOM image."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from invdiff.operators import GaussianNoise, Mask, Operator
from invdiff.problems import Given

__all__ = ["unmeasured", "without"]


def unmeasured(given: Given, op: Operator, *, simulated: bool) -> Tensor | None:
    """Return where pixels of INPUT were not measured, ``(H, W)``; ``None`` if all were, or if the problem knows.

    Raises:
        ValueError: If the operator does not measure pixel by pixel of INPUT, so that none can be left out.
    """
    picture, problem = given.picture, given.problem
    if picture.origin is None or picture.alpha is None or problem.reads_alpha or simulated:
        return None
    hidden = torch.from_numpy(picture.alpha == 0)
    if op.out_shape[-2:] != tuple(hidden.shape):
        raise ValueError(
            f"problem {problem.name}: {int(hidden.sum())} pixels of INPUT are not measured (NaN or masked), and its "
            f"measurement {tuple(op.out_shape)} has no pixel for each of INPUT. Fill them first, by --problem inpaint."
        )
    return hidden


def without(op: Operator, hidden: Tensor) -> Operator:
    """Return an operator that does not measure the pixels ``hidden``, ``(H, W)``."""
    exact = copy.copy(op)
    exact.noise = GaussianNoise(0.0)
    return Mask(~hidden, op.out_shape, noise=op.noise) @ exact
