"""A smaller image: super-resolution."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import LinearOperator, pseudo_divide
from .checks import image_shape
from .noise import GaussianNoise
from .separable import Separable
from .svd import SVD

__all__ = ["DOWNSAMPLE_KERNELS", "BlockMean", "BlockSVD", "Downsample"]

DOWNSAMPLE_KERNELS = ("area", "bicubic")


class BlockMean(LinearOperator):
    r"""Mean over square blocks of side :math:`s`.

    The rows are orthogonal with squared norm :math:`1 / s^2`: :math:`A A^\top = I / s^2`, and the pseudo-inverse repeats
    each pixel.

    Args:
        in_shape: Image shape ``(C, H, W)``, whose height and width ``factor`` divides.
        factor: :math:`s`.
        sigma_y: Noise standard deviation, in image units. Zero: no noise.
    """

    closed_form = True

    def __init__(self, in_shape: Sequence[int], factor: int, *, sigma_y: float = 0.0) -> None:
        channels, height, width = image_shape("BlockMean", in_shape)
        self.in_shape, self.out_shape = (channels, height, width), (channels, height // factor, width // factor)
        self.factor, self.noise = factor, GaussianNoise(sigma_y)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls((3, 8, 12), 2)]

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pinv(y) / self.factor**2

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return pseudo_divide(v, v.new_tensor(1 / self.factor**2), lam)

    def pinv(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)

    def _decompose(self) -> SVD:
        return BlockSVD(self.in_shape, self.factor)


class BlockSVD(SVD):
    r"""Of the mean over blocks of side :math:`f`: the cosine transform of every block, whose constant alone is measured.

    Coordinates lie as the image does, each block holding its own, the constant first: there :math:`s = 1 / f`, else 0.

    Args:
        in_shape: Image shape ``(C, H, W)``, whose height and width ``factor`` divides.
        factor: :math:`f`.
    """

    def __init__(self, in_shape: tuple[int, ...], factor: int) -> None:
        self.shape, self.factor = in_shape, factor
        k = torch.arange(factor, dtype=torch.float64)
        self.cosines = (2 / factor) ** 0.5 * torch.cos(math.pi / factor * k.unsqueeze(1) * (k + 0.5))
        self.cosines[0] = factor**-0.5
        self._values = torch.zeros(in_shape[1:], dtype=torch.float64)
        self._values[::factor, ::factor] = 1 / factor

    def analyse(self, x: Tensor) -> Tensor:
        return self._over_blocks(self.cosines.to(x), x)

    def synthesise(self, x_bar: Tensor) -> Tensor:
        return self._over_blocks(self.cosines.to(x_bar).mT, x_bar)

    def _rotate(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)

    def _over_blocks(self, matrix: Tensor, x: Tensor) -> Tensor:
        channels, height, width = self.shape
        blocks = x.reshape(-1, channels, height // self.factor, self.factor, width // self.factor, self.factor)
        return torch.einsum("ki,bchiwj,lj->bchkwl", matrix, blocks, matrix).reshape(x.shape)


class Downsample(LinearOperator):
    r"""An image smaller by an integer factor: the measurement of super-resolution.

    .. math:: y_c = L\, x_c\, R^\top + n, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    ======= =================================================================================
    kernel  what a pixel of ``y`` is
    ======= =================================================================================
    area    the mean of its block of ``factor`` x ``factor`` pixels
    bicubic a cubic-weighted mean over 4 x ``factor`` pixels (antialiased, as Pillow resizes)
    ======= =================================================================================

    ``solve`` has a closed form for both.

    Args:
        in_shape: Image shape ``(C, H, W)``, without the batch axis.
        factor: A positive integer which divides ``H`` and ``W``.
        kernel: One of ``DOWNSAMPLE_KERNELS``.
        sigma_y: Noise standard deviation, in image units (images span [-1, 1]). Zero: no noise.

    Raises:
        TypeError: If ``factor`` is not an integer.
        ValueError: If it is not positive or does not divide ``H`` and ``W``, or if the kernel is unknown.
    """

    closed_form = True

    def __init__(self, in_shape: Sequence[int], factor: int, *, kernel: str = "area", sigma_y: float = 0.0) -> None:
        channels, height, width = image_shape("Downsample", in_shape)
        try:
            factor = operator.index(factor)
        except TypeError:
            raise TypeError(f"Downsample: factor must be an integer, got {factor!r}.") from None
        if factor < 1 or height % factor or width % factor:
            raise ValueError(
                f"Downsample: factor must be a positive divisor of the image size, got factor={factor} "
                f"for height {height}, width {width}. Crop or pad the image to a multiple of the factor first."
            )
        if kernel not in DOWNSAMPLE_KERNELS:
            raise ValueError(f"Downsample: unknown kernel {kernel!r}, expected one of {', '.join(DOWNSAMPLE_KERNELS)}.")
        self.in_shape, self.out_shape = (channels, height, width), (channels, height // factor, width // factor)
        self.factor, self.kernel, self.noise = factor, kernel, GaussianNoise(sigma_y)
        self.reduction: LinearOperator
        if kernel == "area":
            self.reduction = BlockMean(self.in_shape, factor)
        else:
            self.reduction = Separable(self.in_shape, _bicubic_matrix(height, factor), _bicubic_matrix(width, factor))

    @classmethod
    def examples(cls) -> list[Self]:
        paths = [cls((3, 8, 12), 2, kernel=kernel, sigma_y=0.05) for kernel in DOWNSAMPLE_KERNELS]
        return [*paths, cls((1, 8, 12), 4, kernel="bicubic"), cls((3, 5, 7), 1)]

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction.forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.reduction.adjoint(y)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self.reduction.solve(v, lam)

    def pinv(self, y: Tensor) -> Tensor:
        return self.reduction.pinv(y)

    def _decompose(self) -> SVD | None:
        return self.reduction.svd


def _bicubic_matrix(side: int, factor: int) -> Tensor:
    """Return the bicubic resizing of ``side`` pixels as a matrix, so that the library defines its weights."""
    # As one square image whose width stays: a batch of columns of width 1 comes out wrong in torch 2.
    pixels = torch.eye(side, dtype=torch.float64).reshape(1, 1, side, side)
    return F.interpolate(pixels, size=(side // factor, side), mode="bicubic", antialias=True)[0, 0]
