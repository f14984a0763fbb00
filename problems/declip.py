"""What saturation hides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from invdiff.operators import Clip, Noise, Operator

from .options import Option
from .problem import Problem, photographs

__all__ = ["Declip"]

HALF_STEP = 1 / 255  # of files of 8 bits: the end of the range is seldom one of their values


class Declip(Problem):
    r"""Recover what is too bright or too dark for the range of a sensor.

    Without noise the values inside the range are known exactly, and of those at its end it is known that they lie beyond.
    What is within half a step of 8 bits of the end counts as being there.

    Args:
        low: Values below are measured as this one, images spanning [-1, 1]. :math:`-\infty`: none are.
        high: Values above are measured as this one. :math:`\infty`: none are.

    Raises:
        ValueError: If ``low`` is not below ``high``, or neither is finite.
    """

    name = "declip"
    options = (
        Option(name="clip_low", kind="NUMBER", needed="any", help="Value of all that is darker, pixels spanning 0..1."),
        Option(name="clip_high", kind="NUMBER", needed="any", help="Value of all that is brighter, pixels spanning 0..1."),
    )
    needs = "--clip-low or --clip-high, the ends of the range that INPUT is confined to, or both"
    measures = "Clip"
    recommended = photographs(max_iterations=4)

    def __init__(self, low: float, high: float) -> None:
        if not low < high or (math.isinf(low) and math.isinf(high)):
            raise ValueError(f"Declip: low must be below high, and one of them finite, got low={low:g} and high={high:g}.")
        self.low, self.high = low, high

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        low, high = options["clip_low"], options["clip_high"]
        return cls(-math.inf if low is None else 2 * low - 1, math.inf if high is None else 2 * high - 1)

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        return Clip(shape, self.low, self.high, noise=noise)

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        if op.sigma_y > 0:
            return x
        bright, dark = y >= self.high - HALF_STEP, y <= self.low + HALF_STEP
        return torch.where(bright, torch.maximum(x, y), torch.where(dark, torch.minimum(x, y), y))
