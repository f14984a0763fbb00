"""Recovery of saturated values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from invdiff.operators import Clip, Noise, Operator

from .options import Option
from .problem import Problem

__all__ = ["Declip"]

HALF_STEP = 1 / 255  # half an 8-bit step: the clipping level rarely coincides with one of the 256 values


class Declip(Problem):
    r"""Recover values that are too bright or too dark for the range of a sensor.

    Without noise, values inside the range are known exactly, and those at its ends are known to lie at or beyond them. A value
    within half an 8-bit step of an end counts as saturated.

    Args:
        low: Lower clipping level, images spanning [-1, 1]: smaller values are measured as this one. :math:`-\infty`: none.
        high: Upper clipping level: larger values are measured as this one. :math:`\infty`: none.

    Raises:
        ValueError: If ``low`` is not below ``high``, or both are infinite.
    """

    name = "declip"
    options = (
        Option(name="clip_low", kind="NUMBER", needed="any", help="Lower clipping level, pixels spanning 0..1."),
        Option(name="clip_high", kind="NUMBER", needed="any", help="Upper clipping level, pixels spanning 0..1."),
    )
    needs = "--clip-low, --clip-high or both, the levels at which INPUT is clipped"
    exact_is_usual = True
    measures = "Clip"
    misfit_causes = "a wrong --clip-low or --clip-high"

    def __init__(self, low: float, high: float) -> None:
        if not low < high or (math.isinf(low) and math.isinf(high)):
            raise ValueError(f"Declip: low must be below high, and one of them finite, got low={low:g} and high={high:g}.")
        self.low, self.high = low, high

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        low, high = options["clip_low"], options["clip_high"]
        if low is not None and high is not None and low >= high:
            raise ValueError(f"--clip-low {low:g} and --clip-high {high:g}: low must be below high, pixels spanning 0..1.")
        return cls(-math.inf if low is None else 2 * low - 1, math.inf if high is None else 2 * high - 1)

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        return Clip(shape, self.low, self.high, noise=noise)

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        if op.sigma_y > 0:
            return x
        bright, dark = y >= self.high - HALF_STEP, y <= self.low + HALF_STEP
        return torch.where(bright, torch.maximum(x, y), torch.where(dark, torch.minimum(x, y), y))
