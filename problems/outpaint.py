"""Outpainting: extension of a picture beyond its borders."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from invdiff.operators import Crop, Noise, Operator
from invdiff.priors import ScoreModel

from .options import Option
from .problem import Problem

__all__ = ["Outpaint"]


class Outpaint(Problem):
    """Extend a picture beyond its borders.

    Args:
        margin: Width of the margin on every side, in pixels; at least 1.

    Raises:
        ValueError: If the margin is not positive.
    """

    name = "outpaint"
    options = (
        Option(
            name="margin",
            kind="INTEGER",
            minimum=1,
            needed="yes",
            help="Pixels to add on every side.",
            help_simulated="Pixels to crop on every side.",
        ),
    )
    needs = "--margin, the number of pixels to add on every side"
    exact_is_usual = True
    measures = "Crop"

    def __init__(self, margin: int) -> None:
        if margin < 1:
            raise ValueError(f"Outpaint: margin must be at least 1, in pixels, got {margin}.")
        self.margin = margin

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        height, width = (side - 2 * self.margin for side in shape[-2:])
        if min(height, width) < 1:
            raise ValueError(
                f"Outpaint: margins of {self.margin} pixels leave nothing of an image of {shape[-1]} x {shape[-2]}."
            )
        return Crop(shape, top=self.margin, left=self.margin, height=height, width=width, noise=noise)

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        channels, height, width = measured
        return channels, height + 2 * self.margin, width + 2 * self.margin

    def doubts(self, score: ScoreModel) -> tuple[str, ...]:
        if score.widest_hole is None or 2 * self.margin <= score.widest_hole:
            return ()
        return (
            f"a margin of {self.margin} pixels is far from what is known, and the prior continues pictures by up to about "
            f"{score.widest_hole // 2} pixels plausibly: expect blurred or wrong structures beyond",
        )

    def alpha_of(self, alpha: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
        return np.pad(alpha, self.margin, constant_values=1.0)

    def preview(self, y: Tensor) -> Tensor:
        return F.pad(y, [self.margin] * 4)

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        if op.sigma_y > 0:
            return x
        x, m = x.clone(), self.margin
        x[..., m:-m, m:-m] = y
        return x
