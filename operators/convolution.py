r"""The two ways to convolve by Fourier transform, and the matrix of a convolution in one dimension.

Everywhere :math:`y_i = \sum_a k_a\, x_{i - a + c}`: a true convolution, whose kernel of size :math:`n` has its centre at
:math:`c = \lfloor n / 2 \rfloor`, for even sizes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from .base import LinearOperator, pseudo_divide
from .checks import image_shape
from .noise import GaussianNoise
from .svd import SVD

__all__ = ["CircularConvolution", "HartleySVD", "PaddedConvolution", "convolution_matrix"]


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

    def _decompose(self) -> SVD:
        reference = self.to("cpu", torch.float64)
        decomposition = HartleySVD(self.in_shape, torch.fft.fft2(reference._to_image(reference.spectrum)))
        return decomposition.to(self.spectrum.device, self.spectrum.real.dtype)


class HartleySVD(SVD):
    r"""Of a circular convolution, in real coordinates: :math:`s = |\hat k|`, and :math:`V` is the Hartley transform.

    .. math:: V^\top = \operatorname{Re} F - \operatorname{Im} F, \qquad
        U^\top = V^\top F^{-1} \operatorname{diag}(\hat k^* / |\hat k|) F

    with :math:`F` the unitary Fourier transform. :math:`V` is real, symmetric and orthogonal, so its own inverse; frequencies
    :math:`\pm\omega` share their singular value, and :math:`U` turns their plane by the phase of :math:`\hat k`. Half a
    complex spectrum would do for weights alone, but count its columns unequally: noise would not be white in it.

    Args:
        in_shape: Image shape ``(C, H, W)``; the coordinates have it too.
        spectrum: :math:`\hat k`, all of it, shape ``(H, W)``, complex128.

    References:
        Bracewell, Discrete Hartley transform, 1983, https://doi.org/10.1364/JOSA.73.001832
    """

    def __init__(self, in_shape: tuple[int, ...], spectrum: Tensor) -> None:
        self.shape, self._values = in_shape, spectrum.abs()
        self.turn = torch.where(self._values > 0, spectrum.conj() / self._values, 1)

    def analyse(self, x: Tensor) -> Tensor:
        return _hartley(torch.fft.fft2(x, norm="ortho"))

    def synthesise(self, x_bar: Tensor) -> Tensor:
        return self.analyse(x_bar)

    def _rotate(self, y: Tensor) -> Tensor:
        return _hartley(self.turn.to(y.device, y.dtype.to_complex()) * torch.fft.fft2(y, norm="ortho"))


class PaddedConvolution(LinearOperator):
    r"""Convolution of the image continued beyond its border: padding, circular convolution, cropping.

    .. math:: A = C\, F^{-1} \operatorname{diag}(\hat k) F\, (P_H \otimes P_W)

    The torus is larger than the padded image, so nothing wraps around. ``solve`` is iterative, preconditioned by the solve on
    the torus.

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
        # The kernel reaches size - 1 - c pixels before the first one and c beyond the last.
        self.rows, self.columns = (((size - 1) // 2, size // 2) for size in kernel.shape)
        self.boundary = boundary
        self.in_shape = self.out_shape = channels, height, width
        self.noise = GaussianNoise(sigma_y)

    @classmethod
    def examples(cls) -> list[Self]:
        # The second has too many measurements for eigenvectors: solved by conjugate gradients.
        kernel = _asymmetric_kernel(3, 4)
        return [cls((3, 8, 11), kernel, "reflect"), cls((1, 24, 24), kernel, "zero")]

    def forward(self, x: Tensor) -> Tensor:
        if self.boundary == "reflect":
            x = _unfold(_unfold(x, -1, *self.columns), -2, *self.rows)
            _, rows, columns = self.circular.in_shape
            x = F.pad(x, (0, columns - x.shape[-1], 0, rows - x.shape[-2]))
        else:
            x = self._embed(x)
        return self._crop(self.circular.forward(x))

    def adjoint(self, y: Tensor) -> Tensor:
        x = self.circular.adjoint(self._embed(y))
        if self.boundary == "zero":
            return self._crop(x)
        _, height, width = self.in_shape
        return _fold(_fold(x, -2, height, *self.rows), -1, width, *self.columns)

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        # As if the image lived on the torus: wrong along the border only.
        return self._crop(self.circular.solve(self._embed(v), lam))

    def _soften(self, lam: Tensor) -> Tensor:
        # At lam itself, where the border is wrong it is wrong by a factor of up to |k|^2 / lam. The geometric mean of the two
        # took the fewest iterations of all multiples of lam that were tried, for lam from 1e-1 down to 1e-4.
        gain = self.circular.spectrum.to(lam.device).abs().amax().to(lam) ** 2
        return torch.maximum(lam, (gain * lam.clamp(min=torch.finfo(lam.dtype).eps * gain)).sqrt())

    def _crop(self, x: Tensor) -> Tensor:
        _, height, width = self.in_shape
        return x.narrow(-2, self.rows[0], height).narrow(-1, self.columns[0], width)

    def _embed(self, y: Tensor) -> Tensor:
        _, height, width = self.in_shape
        _, rows, columns = self.circular.in_shape
        (top, _), (left, _) = self.rows, self.columns
        return F.pad(y, (left, columns - width - left, top, rows - height - top))


def _unfold(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Continue ``x`` along an axis by its mirror image on both sides, the border pixels not repeated."""
    head, tail = x.narrow(axis, 1, before), x.narrow(axis, x.shape[axis] - 1 - after, after)
    return torch.cat([head.flip(axis), x, tail.flip(axis)], axis)


def _fold(x: Tensor, axis: int, side: int, before: int, after: int) -> Tensor:
    """Apply the adjoint of ``_unfold`` of ``side`` pixels. By slices: scattered sums are not reproducible on a GPU."""
    folded = x.narrow(axis, before, side).clone()
    folded.narrow(axis, 1, before).add_(x.narrow(axis, 0, before).flip(axis))
    folded.narrow(axis, side - 1 - after, after).add_(x.narrow(axis, before + side, after).flip(axis))
    return folded


def convolution_matrix(side: int, kernel: Tensor, boundary: str) -> Tensor:
    """Return the matrix of the convolution of ``side`` pixels with a one-dimensional ``kernel``, shape ``(side, side)``."""
    size = len(kernel)
    shifts = torch.eye(side, side + size - 1, dtype=kernel.dtype)
    valid = torch.stack([weight * shifts.roll(size - 1 - a, 1) for a, weight in enumerate(kernel)]).sum(0)
    # The kernel reaches size - 1 - c pixels before the first one and c beyond the last.
    padded = np.pad(
        np.eye(side), (((size - 1) // 2, size // 2), (0, 0)), mode="reflect" if boundary == "reflect" else "constant"
    )
    return valid @ torch.from_numpy(padded).to(kernel)


def _hartley(spectrum: Tensor) -> Tensor:
    """Return the Hartley transform of the real image whose Fourier transform is ``spectrum``."""
    return spectrum.real - spectrum.imag


def _asymmetric_kernel(rows: int, columns: int) -> Tensor:
    """Return a kernel without any symmetry, not separable, and heavy enough at its centre to be well conditioned."""
    kernel = torch.rand(rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernel[rows // 2, columns // 2] += rows * columns
    return kernel / kernel.sum()
