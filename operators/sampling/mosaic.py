"""One color per pixel, as measured through a color filter array: demosaicing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator, pseudo_divide
from ..core.svd import SVD, CoordinateSVD
from ..core.validation import image_shape

__all__ = ["BAYER_PATTERNS", "Mosaic"]

BAYER_PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")


class Mosaic(LinearOperator):
    r"""A Bayer color filter array: every pixel measures red, green or blue.

    .. math:: y_{ij} = x_{c(i, j),\, i,\, j} + n_{ij}, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    where the channel :math:`c(i, j)` repeats every two rows and columns. The rows are orthonormal, :math:`A A^\top = I` and
    :math:`A^+ = A^\top`: ``adjoint`` and ``pinv`` put every value back into its channel and set the two others to 0
    (mid-gray, as images span [-1, 1]), and ``solve`` divides by :math:`1 + \lambda`.

    Args:
        in_shape: ``(3, H, W)``: red, green and blue. Odd sizes end with half a tile.
        pattern: One of ``BAYER_PATTERNS``: the colors of the top left 2 x 2 pixels, row by row, as in raw converters. OpenCV
            and kornia name the same four patterns by the pixels from (1, 1) on: their ``BG`` is ``RGGB``.
        sigma_y: Noise standard deviation, in the units of ``x``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Attributes:
        mask: 1 where a color is measured, else 0; shape ``in_shape``.

    Raises:
        TypeError: If ``in_shape`` is not a sequence of integers.
        ValueError: If it is not ``(3, H, W)``, or if the pattern is unknown.

    References:
        Bayer, Color imaging array, 1976, https://patents.google.com/patent/US3971065A
    """

    closed_form = True
    gram_scale = 1.0

    def __init__(
        self,
        in_shape: Sequence[int],
        pattern: str,
        *,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        channels, height, width = image_shape("Mosaic", in_shape)
        if channels != 3:
            raise ValueError(f"Mosaic: in_shape must be (3, H, W), red, green and blue, got {(channels, height, width)}.")
        if pattern not in BAYER_PATTERNS:
            raise ValueError(f"Mosaic: unknown pattern {pattern!r}, expected one of {', '.join(BAYER_PATTERNS)}.")
        tile = torch.tensor(["RGB".index(color) for color in pattern]).reshape(2, 2)
        colors = tile.repeat((height + 1) // 2, (width + 1) // 2)[:height, :width]
        # Float32, the usual dtype of images: a product with it is faster than a selection by booleans.
        self.mask = (colors == torch.arange(3).reshape(3, 1, 1)).float()
        self.in_shape, self.out_shape = (3, height, width), (1, height, width)
        self.pattern, self.noise = pattern, noise_of(sigma_y, noise)

    def forward(self, x: Tensor) -> Tensor:
        return (self.mask.to(x) * x).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.mask.to(y) * y

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return pseudo_divide(v, v.new_ones(()), lam)

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y)

    def _decompose(self) -> SVD:
        # Every measured value is a coordinate of x: it broadcasts to the three channels, and the mask keeps one of them.
        return CoordinateSVD(self.mask.double(), self.in_shape)
