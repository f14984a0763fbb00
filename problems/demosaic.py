"""All colours of every pixel, from one behind a colour filter each."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from invdiff.operators import Mosaic, Operator
from invdiff.operators.sampling.mosaic import BAYER_PATTERNS

from .problem import Problem, photographs

__all__ = ["Demosaic"]


class Demosaic(Problem):
    """Find the two colours that every pixel behind a Bayer filter lacks.

    Args:
        pattern: ``RGGB``, ``BGGR``, ``GRBG`` or ``GBRG``: the colours of the top left 2 x 2 pixels, row by row.

    Raises:
        ValueError: If the pattern is none of these.
    """

    name = "demosaic"
    summary = "make colours of the raw mosaic of a camera"
    needs = ("--pattern",)
    recommended = photographs(max_iterations=4)

    def __init__(self, pattern: str) -> None:
        if pattern not in BAYER_PATTERNS:
            raise ValueError(f"Demosaic: unknown pattern {pattern!r}, expected one of {', '.join(BAYER_PATTERNS)}.")
        self.pattern = pattern

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(pattern) for pattern in BAYER_PATTERNS]

    def operator(self, shape: tuple[int, int, int], *, sigma_y: float) -> Operator:
        return Mosaic(shape, self.pattern, sigma_y=sigma_y)

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        channels, height, width = measured
        if channels != 1:
            raise ValueError(f"Demosaic: the mosaic has {channels} channels, expected one: a raw value for every pixel.")
        return 3, height, width

    def fit(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3:
            raise ValueError(f"Demosaic: the clean picture has {x.shape[1]} channels, expected red, green and blue.")
        return x

    def preview(self, y: Tensor) -> Tensor:
        """Return every value in its own colour, the two others black."""
        return Mosaic((3, y.shape[-2], y.shape[-1]), self.pattern).adjoint(y + 1) - 1

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        if op.sigma_y > 0:
            return x
        mosaic = Mosaic((3, x.shape[-2], x.shape[-1]), self.pattern)
        return torch.where(mosaic.mask.to(x.device).bool(), y, x)
