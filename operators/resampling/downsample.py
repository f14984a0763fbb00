"""Downsampling by an integer factor, for super-resolution."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..blur.blur import blur_kernel
from ..blur.convolution import convolution_matrix, separate
from ..blur.separable import Separable
from ..blur.strided_convolution import SubsampledConvolution
from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator, pseudo_divide
from ..core.svd import SVD
from ..core.torus import TorusConvolution
from ..core.validation import image_shape
from .resize import resize_matrix

__all__ = ["DOWNSAMPLE_KERNELS", "BlockMean", "BlockSVD", "Downsample"]

DOWNSAMPLE_KERNELS = ("area", "bicubic", "lanczos")


class BlockMean(LinearOperator):
    r"""Mean over square blocks of side :math:`s`.

    The rows are orthogonal with squared norm :math:`1 / s^2`: :math:`A A^\top = I / s^2`, and the pseudo-inverse repeats
    each pixel.

    Args:
        in_shape: Image shape ``(C, H, W)``, with height and width divisible by ``factor``.
        factor: :math:`s`.
        sigma_y: Noise standard deviation, in image units. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.
    """

    closed_form = True

    def __init__(self, in_shape: Sequence[int], factor: int, *, sigma_y: float = 0.0, noise: Noise | None = None) -> None:
        channels, height, width = image_shape("BlockMean", in_shape)
        self.in_shape, self.out_shape = (channels, height, width), (channels, height // factor, width // factor)
        self.factor, self.noise = factor, noise_of(sigma_y, noise)
        self.gram_scale = 1 / factor**2

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pinv(y) / self.factor**2

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return pseudo_divide(v, v.new_tensor(1 / self.factor**2), lam)

    def pinv(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)

    def as_torus_convolution(self) -> TorusConvolution:
        return TorusConvolution((self.factor, self.factor), None)

    def _decompose(self) -> SVD:
        return BlockSVD(self.in_shape, self.factor)


class BlockSVD(SVD):
    r"""SVD of the mean over blocks of side :math:`f`: the cosine transform of every block, of which only the DC is measured.

    Coordinates have the layout of the image. Each block holds its own coefficients, with the DC (the constant) first, where
    :math:`s = 1 / f`; all other singular values are 0.

    Args:
        in_shape: Image shape ``(C, H, W)``, with height and width divisible by ``factor``.
        factor: :math:`f`.
    """

    kind = "decimation"

    def __init__(self, in_shape: tuple[int, ...], factor: int) -> None:
        self.shape, self.factor = in_shape, factor
        k = torch.arange(factor, dtype=torch.float64)
        self.cosines = (2 / factor) ** 0.5 * torch.cos(math.pi / factor * k.unsqueeze(1) * (k + 0.5))
        self.cosines[0] = factor**-0.5
        self._values = torch.zeros(in_shape[1:], dtype=torch.float64)
        self._values[::factor, ::factor] = 1 / factor

    def analyze(self, x: Tensor) -> Tensor:
        return self._over_blocks(self.cosines.to(x), x)

    def synthesize(self, x_bar: Tensor) -> Tensor:
        return self._over_blocks(self.cosines.to(x_bar).mT, x_bar)

    def _rotate(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)

    def diagonal(self, values: Tensor) -> Tensor:
        return self._over_blocks(self.cosines.to(values).mT.square(), values)

    def power(self, values: Tensor) -> Tensor:
        height, width = self.shape[1:]
        down, across = (self._waves(side, values) for side in (height, width))
        power: Tensor = down.mT @ values @ across
        return power[..., : width // 2 + 1]

    def _waves(self, side: int, like: Tensor) -> Tensor:
        """Return the power of every basis vector along a side at each frequency, ``(side, side)``."""
        rows = torch.kron(torch.eye(side // self.factor).to(like), self.cosines.to(like))
        waves: Tensor = torch.fft.fft(rows, norm="ortho").abs().square()
        return waves

    def _over_blocks(self, matrix: Tensor, x: Tensor) -> Tensor:
        channels, height, width = self.shape
        blocks = x.reshape(-1, channels, height // self.factor, self.factor, width // self.factor, self.factor)
        return torch.einsum("ki,bchiwj,lj->bchkwl", matrix, blocks, matrix).reshape(x.shape)


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

    Args:
        in_shape: Image shape ``(C, H, W)``, without the batch axis.
        factor: A positive integer that divides ``H`` and ``W``.
        kernel: One of ``DOWNSAMPLE_KERNELS``, or a blur kernel ``(h, w)`` that is not larger than the image.
        sigma_y: Noise standard deviation, in image units (images span [-1, 1]). Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        TypeError: If ``factor`` is not an integer, or a blur kernel is complex.
        ValueError: If ``factor`` is not positive or does not divide ``H`` and ``W``, if the kernel is unknown, or if a blur
            kernel is not two-dimensional, is not finite, sums to zero or is larger than the image.

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
        factor: int,
        *,
        kernel: str | Tensor | np.ndarray = "area",
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
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
        if isinstance(kernel, str) and kernel not in DOWNSAMPLE_KERNELS:
            raise ValueError(
                f"Downsample: unknown kernel {kernel!r}, expected one of {', '.join(DOWNSAMPLE_KERNELS)}, or a tensor (h, w)."
            )
        self.in_shape, self.out_shape = (channels, height, width), (channels, height // factor, width // factor)
        self.factor, self.kernel, self.noise = factor, kernel, noise_of(sigma_y, noise)
        self.reduction: LinearOperator
        if not isinstance(kernel, str):
            blur = self.kernel = blur_kernel("Downsample", kernel, self.in_shape, "circular")
            if (factors := separate(blur, torch.as_tensor(kernel).dtype)) is None:
                self.reduction = SubsampledConvolution(self.in_shape, blur, stride=factor, boundary="circular")
            else:
                rows, columns = (convolution_matrix(n, k, "circular") for n, k in zip((height, width), factors, strict=True))
                self.reduction = Separable(self.in_shape, rows[::factor], columns[::factor], kind="decimation")
        elif kernel == "area":
            self.reduction = BlockMean(self.in_shape, factor)
        else:
            sides = (resize_matrix(side, side // factor, kernel) for side in (height, width))
            self.reduction = Separable(self.in_shape, *sides, kind="decimation")
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
            return TorusConvolution((self.factor, self.factor), self.kernel.device)
        return self.reduction.as_torus_convolution()

    def _decompose(self) -> SVD | None:
        return self.reduction.svd
