r"""What rounding leaves open: every value of an interval is as likely as the others."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from invdiff.random import Streams

from .noise import Noise

__all__ = ["RoundingNoise"]


class RoundingNoise(Noise):
    r"""Quantisation: ``y`` is the multiple of a step nearest to ``z``.

    .. math:: y = o + h \Big\lfloor \frac{z - o}{h} + \frac12 \Big\rfloor, \qquad
        p(y | z) = 1 \text{ where } |y - z| \le \tfrac{h}{2}, \text{ else } 0, \qquad v = h^2 / 12

    The likelihood has no gradient: what stands for it is the Gaussian of the same variance as a uniform error.

    Args:
        step: :math:`h > 0`, in the units of ``y``: 2/255 for images of 8 bits.
        offset: :math:`o`, one of the values ``y`` can take: -1 for images.
    """

    def __init__(self, step: float, *, offset: float) -> None:
        if not (math.isfinite(step) and step > 0 and math.isfinite(offset)):
            raise ValueError(f"RoundingNoise: expected a finite step > 0 and a finite offset, got {step} and {offset}.")
        self.step, self.offset, self.sigma = float(step), float(offset), float(step) / math.sqrt(12)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(0.25, offset=-1.0)]

    def add(self, clean: Tensor, streams: Streams) -> Tensor:
        return self.offset + self.step * ((clean - self.offset) / self.step + 0.5).floor()

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        # A rounding more than the interval, so that what was just rounded is surely inside.
        inside = (y - clean).abs() <= self.step * (0.5 + 8 * torch.finfo(clean.dtype).eps * (1 + abs(self.offset) / self.step))
        return torch.where(inside, 0 * clean, -torch.inf)

    def variance(self, y: Tensor, clean: Tensor) -> Tensor:
        return torch.full_like(y[:1], self.sigma**2)

    def __repr__(self) -> str:
        return f"RoundingNoise({self.step:g}, offset={self.offset:g})"
