r"""The two ways to convolve by Fourier transform, and the matrix of a convolution in one dimension.

Everywhere :math:`y_i = \sum_a k_a\, x_{i - a + c}`: a true convolution, whose kernel of size :math:`n` has its centre at
:math:`c = \lfloor n / 2 \rfloor`, for even sizes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from .base import LinearOperator, pseudo_divide
from .checks import image_shape
from .noise import GaussianNoise

__all__ = ["CircularConvolution", "PaddedConvolution", "convolution_matrix", "padding_matrix"]


class CircularConvolution(LinearOperator):
    r"""Convolution on a torus, which the Fourier transform makes diagonal: :math:`A = F^{-1} \operatorname{diag}(\hat k) F`.

    Args:
        in_shape: Image shape ``(C, H, W)``, without the batch axis.
        kernel: Float64, not larger than the image, shape ``(h, w)``.
        sigma_y: Noise standard deviation, in image units. Zero: no noise.
    """

    closed_form = True

    def __init__(self, in_shape: Sequence[int], kernel: Tensor, *, sigma_y: float = 0.0) -> None:
        channels, height, width = image_shape("CircularConvolution", in_shape)
        rows, columns = kernel.shape
        centred = kernel.new_zeros(height, width)
        centred[:rows, :columns] = kernel
        self.spectrum = torch.fft.rfft2(centred.roll((-(rows // 2), -(columns // 2)), (0, 1)))
        self.in_shape = self.out_shape = channels, height, width
        self.noise = GaussianNoise(sigma_y)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls((3, 8, 11), _asymmetric_kernel(3, 4))]

    def forward(self, x: Tensor) -> Tensor:
        return self._to_image(self._spectrum_like(x) * torch.fft.rfft2(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self._to_image(self._spectrum_like(y).conj() * torch.fft.rfft2(y))

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self._to_image(pseudo_divide(torch.fft.rfft2(v), self._spectrum_like(v).abs() ** 2, lam))

    def pinv(self, y: Tensor) -> Tensor:
        # Divides by each frequency once. The detour over solve squares the condition number.
        spectrum = self._spectrum_like(y)
        return self._to_image(pseudo_divide(spectrum.conj() * torch.fft.rfft2(y), spectrum.abs() ** 2, 0.0))

    def _spectrum_like(self, x: Tensor) -> Tensor:
        spectrum: Tensor = self.spectrum.to(x.device, x.dtype.to_complex())
        return spectrum

    def _to_image(self, spectrum: Tensor) -> Tensor:
        image: Tensor = torch.fft.irfft2(spectrum, s=self.in_shape[-2:])
        return image


class PaddedConvolution(LinearOperator):
    r"""Convolution of the image continued beyond its border: padding, circular convolution, cropping.

    .. math:: A = C\, F^{-1} \operatorname{diag}(\hat k) F\, (P_H \otimes P_W)

    The torus is larger than the padded image, so nothing wraps around. ``solve`` is iterative.

    Args:
        in_shape: Image shape ``(C, H, W)``, without the batch axis.
        kernel: Float64, not larger than the image, shape ``(h, w)``.
        boundary: ``reflect`` or ``zero``.
        sigma_y: Noise standard deviation, in image units. Zero: no noise.
    """

    def __init__(self, in_shape: Sequence[int], kernel: Tensor, boundary: str, *, sigma_y: float = 0.0) -> None:
        channels, height, width = image_shape("PaddedConvolution", in_shape)
        padded = tuple(
            next_fast_len(side + size - 1, real=True) for side, size in zip((height, width), kernel.shape, strict=True)
        )
        self.circular = CircularConvolution((channels, *padded), kernel)
        # Padding by matrix products: its adjoint is exact, and deterministic on a GPU, where scattered sums are not.
        self.pad_rows = padding_matrix(height, kernel.shape[0], boundary, padded[0])
        self.pad_columns = padding_matrix(width, kernel.shape[1], boundary, padded[1])
        self.top, self.left = ((size - 1) // 2 for size in kernel.shape)
        self.in_shape = self.out_shape = channels, height, width
        self.noise = GaussianNoise(sigma_y)

    @classmethod
    def examples(cls) -> list[Self]:
        # The second has too many measurements for eigenvectors: solved by conjugate gradients.
        kernel = _asymmetric_kernel(3, 4)
        return [cls((3, 8, 11), kernel, "reflect"), cls((1, 24, 24), kernel, "zero")]

    def forward(self, x: Tensor) -> Tensor:
        return self._crop(self.circular.forward(self.pad_rows.to(x) @ x @ self.pad_columns.to(x).mT))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pad_rows.to(y).mT @ self.circular.adjoint(self._embed(y)) @ self.pad_columns.to(y)

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        # As if the image lived on the torus: wrong along the border only.
        return self._crop(self.circular.solve(self._embed(v), lam))

    def _crop(self, x: Tensor) -> Tensor:
        _, height, width = self.in_shape
        return x[..., self.top : self.top + height, self.left : self.left + width]

    def _embed(self, y: Tensor) -> Tensor:
        _, height, width = self.in_shape
        _, rows, columns = self.circular.in_shape
        bottom, right = rows - height - self.top, columns - width - self.left
        return torch.nn.functional.pad(y, (self.left, right, self.top, bottom))


def padding_matrix(side: int, size: int, boundary: str, padded: int | None = None) -> Tensor:
    """Return the matrix that continues ``side`` pixels far enough for a kernel of ``size``, shape ``(padded, side)``.

    Args:
        side: Number of pixels.
        size: Number of kernel entries.
        boundary: ``reflect`` (the border pixel is not repeated) or ``zero``.
        padded: Rows, the surplus being zero. Default: ``side + size - 1``, as many as the kernel sees.
    """
    # The kernel reaches size - 1 - c pixels before the first one and c beyond the last.
    rows = ((size - 1) // 2, size // 2), (0, 0)
    matrix = torch.from_numpy(np.pad(np.eye(side), rows, mode="reflect" if boundary == "reflect" else "constant"))
    surplus = 0 if padded is None else padded - len(matrix)
    return torch.nn.functional.pad(matrix, (0, 0, 0, surplus))


def convolution_matrix(side: int, kernel: Tensor, boundary: str) -> Tensor:
    """Return the matrix of the convolution of ``side`` pixels with a one-dimensional ``kernel``, shape ``(side, side)``."""
    size = len(kernel)
    shifts = torch.eye(side, side + size - 1, dtype=kernel.dtype)
    valid = torch.stack([weight * shifts.roll(size - 1 - a, 1) for a, weight in enumerate(kernel)]).sum(0)
    return valid @ padding_matrix(side, size, boundary).to(kernel)


def _asymmetric_kernel(rows: int, columns: int) -> Tensor:
    """Return a kernel without any symmetry, not separable, and heavy enough at its centre to be well conditioned."""
    kernel = torch.rand(rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernel[rows // 2, columns // 2] += rows * columns
    return kernel / kernel.sum()
