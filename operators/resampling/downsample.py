"""Downsampling by an integer factor, for super-resolution."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.cosine_transform import CosineTransform, cosine_matrix

from ..blur.blur import blur_kernel
from ..blur.convolution import convolution_matrix, separate
from ..blur.separable import Separable
from ..blur.strided_convolution import SubsampledConvolution
from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator, pseudo_divide
from ..core.svd import SVD
from ..core.torus import TorusConvolution
from ..core.validation import sides_in_words, volume_shape
from .resize import resize_matrix

__all__ = ["DOWNSAMPLE_KERNELS", "BlockMean", "BlockSVD", "Downsample"]

DOWNSAMPLE_KERNELS = ("area", "bicubic", "lanczos")


class BlockMean(LinearOperator):
    r"""Mean over blocks, with a side :math:`s_a` along every axis but that of the channels.

    The rows are orthogonal with squared norm :math:`1 / n`, for blocks of :math:`n = \prod_a s_a` entries:
    :math:`A A^\top = I / n`, and the pseudo-inverse repeats each entry.

    Args:
        in_shape: Image shape ``(C, H, W)``, or volume shape ``(C, D, H, W)``, with sides divisible by those of the blocks.
        sides: :math:`s_a`, one for each axis but the first.
        sigma_y: Noise standard deviation, in image units. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.
    """

    closed_form = True

    def __init__(
        self, in_shape: Sequence[int], sides: Sequence[int], *, sigma_y: float = 0.0, noise: Noise | None = None
    ) -> None:
        self.in_shape, self.sides, self.noise = volume_shape("BlockMean", in_shape), tuple(sides), noise_of(sigma_y, noise)
        self.out_shape = self.in_shape[0], *(n // side for n, side in zip(self.in_shape[1:], self.sides, strict=True))
        self.gram_scale = 1 / math.prod(self.sides)

    def forward(self, x: Tensor) -> Tensor:
        return (F.avg_pool2d if len(self.sides) == 2 else F.avg_pool3d)(x, self.sides)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pinv(y) / math.prod(self.sides)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return pseudo_divide(v, v.new_tensor(self.gram_scale), lam)

    def pinv(self, y: Tensor) -> Tensor:
        return _repeat(y, self.sides)

    def as_torus_convolution(self) -> TorusConvolution:
        return TorusConvolution(self.sides, None)

    def _decompose(self) -> SVD:
        return BlockSVD(self.in_shape, self.sides)


class BlockSVD(SVD):
    r"""SVD of the mean over blocks of :math:`n` entries: the cosine transform of every block, of which only the DC is measured.

    Coordinates have the layout of the image. Each block holds its own coefficients, with the DC (the constant) first, where
    :math:`s = n^{-1/2}`; all other singular values are 0.

    Args:
        in_shape: Image shape ``(C, H, W)``, or volume shape ``(C, D, H, W)``, with sides divisible by those of the blocks.
        sides: Sides of the blocks, one for each axis but the first.
    """

    kind = "decimation"

    def __init__(self, in_shape: tuple[int, ...], sides: tuple[int, ...]) -> None:
        self.shape, self.axes = in_shape, tuple(range(-len(sides), 0))
        self.cosines = tuple(CosineTransform(side, ends=False) for side in sides)
        self._values = torch.zeros(in_shape[1:], dtype=torch.float64)
        self._values[tuple(slice(None, None, side) for side in sides)] = math.prod(sides) ** -0.5

    def analyze(self, x: Tensor) -> Tensor:
        for axis, cosines in zip(self.axes, self.cosines, strict=True):
            x = cosines.analyze(_by_block(x, axis, cosines.side), axis).flatten(axis - 1, axis)
        return x

    def synthesize(self, x_bar: Tensor) -> Tensor:
        for axis, cosines in zip(self.axes, self.cosines, strict=True):
            x_bar = cosines.synthesize(_by_block(x_bar, axis, cosines.side), axis).flatten(axis - 1, axis)
        return x_bar

    def _rotate(self, y: Tensor) -> Tensor:
        return _repeat(y, [cosines.side for cosines in self.cosines])

    def diagonal(self, values: Tensor) -> Tensor:
        for axis, cosines in zip(self.axes, self.cosines, strict=True):
            squares, blocks = cosine_matrix(cosines.side).to(values).square(), _by_block(values, axis, cosines.side)
            values = (blocks.transpose(axis, -1) @ squares).transpose(axis, -1).flatten(axis - 1, axis)
        return values

    def power(self, values: Tensor) -> Tensor:
        for axis, cosines in zip(self.axes, self.cosines, strict=True):
            # The power of every basis vector along a side at each frequency.
            rows = torch.kron(torch.eye(self.shape[axis] // cosines.side).to(values), cosine_matrix(cosines.side).to(values))
            waves = torch.fft.fft(rows, norm="ortho").abs().square()
            values = (values.transpose(axis, -1) @ waves).transpose(axis, -1)
        return values[..., : self.shape[-1] // 2 + 1]


class Downsample(LinearOperator):
    r"""Downsampling by an integer factor: the operator of super-resolution.

    .. math:: y_c = L\, x_c\, R^\top + n, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    ======== ======================================================================================
    kernel   a pixel of ``y``
    ======== ======================================================================================
    area     the mean of its block of ``factor`` x ``factor`` pixels
    bicubic  a mean with cubic weights over 4 x ``factor`` pixels per axis (antialiased, as in Pillow)
    lanczos  a mean with windowed sinc weights over 6 x ``factor`` pixels per axis (Pillow's LANCZOS)
    a tensor every ``factor``-th pixel of the blurred image, from the first: ``blur(x)[::s, ::s]``
    ======== ======================================================================================

    For details of the named kernels see :class:`Resize`. The bicubic kernel is also the one of MATLAB's ``imresize``, except
    at the border. With a tensor the blur is periodic, as :class:`Blur` with the boundary ``circular``: the classical model of
    super-resolution. For other boundaries see :class:`SubsampledConvolution`.

    ``solve`` has a closed form for all kernels. For tensors that are not the product of a column and a row, it folds the
    spectrum of the kernel (Zhao et al.).

    Volumes ``(C, D, H, W)`` are downsampled along three axes, by ``area`` or a blur kernel ``(d, h, w)``. ``factor=(4, 1, 1)``
    makes thick slices: means of four neighbors.

    Args:
        in_shape: Image shape ``(C, H, W)``, or volume shape ``(C, D, H, W)``, without the batch axis.
        factor: A positive integer that divides ``H`` and ``W``, and ``D``; or, for volumes, one for each of the three.
        kernel: One of ``DOWNSAMPLE_KERNELS``, or a blur kernel ``(h, w)`` that is not larger than the image.
        sigma_y: Noise standard deviation, in image units (images span [-1, 1]). Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        TypeError: If ``factor`` is not an integer, or a blur kernel is complex.
        ValueError: If ``factor`` is not positive or does not divide the sides, if the kernel is unknown, or if a blur kernel
            has not one axis for each side, is not finite, sums to zero or is larger than the image.

    References:
        Zhao et al., Fast Single Image Super-Resolution Using a New Analytical Solution, 2016,
        https://doi.org/10.1109/TIP.2016.2567075
        Zhang et al., Plug-and-Play Image Restoration with Deep Denoiser Prior (DPIR), 2021,
        https://arxiv.org/abs/2008.13751 (the classical model)
    """

    closed_form = True

    def __init__(
        self,
        in_shape: Sequence[int],
        factor: int | Sequence[int],
        *,
        kernel: str | Tensor | np.ndarray = "area",
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        self.in_shape = volume_shape("Downsample", in_shape)
        channels, *sides = self.in_shape
        volume = len(sides) == 3
        try:
            given = tuple(factor) if volume and isinstance(factor, Sequence) else (factor,) * len(sides)
            factors = tuple(operator.index(one) for one in given)  # type: ignore[arg-type]
        except TypeError:
            each = ", or one for each axis" if volume else ""
            raise TypeError(f"Downsample: factor must be an integer{each}, got {factor!r}.") from None
        if len(factors) != len(sides) or min(factors) < 1 or any(n % s for n, s in zip(sides, factors, strict=True)):
            kind = "volume" if volume else "image"
            raise ValueError(
                f"Downsample: factor must be a positive divisor of the {kind} size, got factor={factor} for "
                f"{sides_in_words(sides)}. Crop or pad the {kind} to a multiple of the factor first."
            )
        if isinstance(kernel, str) and kernel not in DOWNSAMPLE_KERNELS:
            raise ValueError(
                f"Downsample: unknown kernel {kernel!r}, expected one of {', '.join(DOWNSAMPLE_KERNELS)}, or a tensor (h, w)."
            )
        if isinstance(kernel, str) and kernel != "area" and volume:
            raise ValueError(f"Downsample: volumes are downsampled by 'area' or a kernel (d, h, w), got {kernel!r}.")
        self.out_shape = channels, *(n // s for n, s in zip(sides, factors, strict=True))
        self.factor, self.factors = factors[0] if len({*factors}) == 1 else factors, factors
        self.kernel, self.noise = kernel, noise_of(sigma_y, noise)
        self.reduction: LinearOperator
        if not isinstance(kernel, str):
            blur = self.kernel = blur_kernel("Downsample", kernel, self.in_shape, "circular")
            parts = None if volume else separate(blur, torch.as_tensor(kernel).dtype)
            if parts is None:
                self.reduction = SubsampledConvolution(self.in_shape, blur, stride=factors, boundary="circular")
            else:
                matrices = (convolution_matrix(n, k, "circular")[::s] for n, k, s in zip(sides, parts, factors, strict=True))
                self.reduction = Separable(self.in_shape, *matrices, kind="decimation")
        elif kernel == "area":
            self.reduction = BlockMean(self.in_shape, factors)
        else:
            matrices = (resize_matrix(n, n // s, kernel) for n, s in zip(sides, factors, strict=True))
            self.reduction = Separable(self.in_shape, *matrices, kind="decimation")
        self.gram_scale = self.reduction.gram_scale

    def _summary(self) -> Sequence[str]:
        return (
            f"factor {self.factor}",
            self.kernel if isinstance(self.kernel, str) else "own kernel",
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction.forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.reduction.adjoint(y)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self.reduction.solve(v, lam)

    def pinv(self, y: Tensor) -> Tensor:
        return self.reduction.pinv(y)

    def as_torus_convolution(self) -> TorusConvolution | None:
        if isinstance(self.kernel, Tensor):
            return TorusConvolution(self.factors, self.kernel.device)
        return self.reduction.as_torus_convolution()

    def _decompose(self) -> SVD | None:
        return self.reduction.svd


def _repeat(y: Tensor, sides: Sequence[int]) -> Tensor:
    """Return blocks of equal entries, one for each of ``y``."""
    for axis, side in zip(range(-len(sides), 0), sides, strict=True):
        y = y.repeat_interleave(side, axis)
    return y


def _by_block(x: Tensor, axis: int, side: int) -> Tensor:
    """Split an axis, counted from the end, into blocks and the places in a block."""
    first = x.ndim + axis
    return x.reshape(*x.shape[:first], -1, side, *x.shape[first + 1 :])
