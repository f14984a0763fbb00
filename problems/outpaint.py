"""What lies around a picture."""

from __future__ import annotations

from typing import Self

import torch.nn.functional as F
from torch import Tensor

from invdiff.operators import Crop, Operator

from .problem import Problem, photographs

__all__ = ["Outpaint"]


class Outpaint(Problem):
    """Continue a picture beyond its borders.

    Args:
        margin: How far, in pixels, on every side; at least 1.

    Raises:
        ValueError: If the margin is not positive.
    """

    name = "outpaint"
    summary = "continue a picture beyond its borders"
    needs = ("--margin",)
    recommended = photographs(max_iterations=4)

    def __init__(self, margin: int) -> None:
        if margin < 1:
            raise ValueError(f"Outpaint: margin must be at least 1, in pixels, got {margin}.")
        self.margin = margin

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(3)]

    def operator(self, shape: tuple[int, int, int], *, sigma_y: float) -> Operator:
        height, width = (side - 2 * self.margin for side in shape[-2:])
        if min(height, width) < 1:
            raise ValueError(
                f"Outpaint: margins of {self.margin} pixels leave nothing of an image of {shape[-1]} x {shape[-2]}."
            )
        return Crop(shape, top=self.margin, left=self.margin, height=height, width=width, sigma_y=sigma_y)

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        channels, height, width = measured
        return channels, height + 2 * self.margin, width + 2 * self.margin

    def preview(self, y: Tensor) -> Tensor:
        return F.pad(y, [self.margin] * 4)

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        if op.sigma_y > 0:
            return x
        x, m = x.clone(), self.margin
        x[..., m:-m, m:-m] = y
        return x
