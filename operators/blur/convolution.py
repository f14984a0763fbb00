r"""Circular and padded convolution by Fourier transform, and the matrix of a one-dimensional convolution.

All of them compute the true convolution :math:`y_i = \sum_a k_a\, x_{i - a + c}`, where a kernel of size :math:`n` has its
center at :math:`c = \lfloor n / 2 \rfloor`, also for even sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..core.autograd import with_adjoint
from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator, pseudo_divide
from ..core.svd import SVD
from ..core.torus import TorusConvolution
from ..core.validation import event_shape
from .boundaries import SCIPY_MODES, Border

__all__ = ["CircularConvolution", "HartleySVD", "PaddedConvolution", "convolution_matrix", "separate", "soften"]


class CircularConvolution(LinearOperator):
    r"""Circular convolution, which is diagonal in the Fourier basis: :math:`A = F^{-1} \operatorname{diag}(\hat k) F`.

    Args:
        in_shape: Image shape ``(C, H, W)``, or volume shape ``(C, D, H, W)``, without the batch axis.
        kernel: Kernel, float64, not larger than the image, shape ``(h, w)`` or ``(d, h, w)``.
        sigma_y: Noise standard deviation, in image units. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.
    """

    closed_form = True

    def __init__(self, in_shape: Sequence[int], kernel: Tensor, *, sigma_y: float = 0.0, noise: Noise | None = None) -> None:
        self.in_shape = self.out_shape = event_shape("CircularConvolution", in_shape)
        centered = kernel.new_zeros(self.in_shape[1:])
        centered[tuple(map(slice, kernel.shape))] = kernel
        centered = centered.roll([-(size // 2) for size in kernel.shape], list(range(kernel.ndim)))
        self.axes, self.spectrum = tuple(range(-kernel.ndim, 0)), torch.fft.rfftn(centered)
        self.noise = noise_of(sigma_y, noise)

    def forward(self, x: Tensor) -> Tensor:
        return with_adjoint(x, self._convolve, self._correlate)

    def adjoint(self, y: Tensor) -> Tensor:
        return with_adjoint(y, self._correlate, self._convolve)

    def _convolve(self, x: Tensor) -> Tensor:
        return self._to_image(self._spectrum_like(x) * torch.fft.rfftn(x, dim=self.axes))

    def _correlate(self, y: Tensor) -> Tensor:
        return self._to_image(self._spectrum_like(y).conj() * torch.fft.rfftn(y, dim=self.axes))

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self._to_image(pseudo_divide(torch.fft.rfftn(v, dim=self.axes), self._spectrum_like(v).abs() ** 2, lam))

    def pinv(self, y: Tensor) -> Tensor:
        # Divides by the spectrum once. Going through solve would square the condition number.
        spectrum = self._spectrum_like(y)
        return self._to_image(pseudo_divide(spectrum.conj() * torch.fft.rfftn(y, dim=self.axes), spectrum.abs() ** 2, 0.0))

    def as_torus_convolution(self) -> TorusConvolution:
        return TorusConvolution((1,) * len(self.axes), self.spectrum.device)

    def _spectrum_like(self, x: Tensor) -> Tensor:
        spectrum: Tensor = self.spectrum.to(x.device, x.dtype.to_complex())
        return spectrum

    def _to_image(self, spectrum: Tensor) -> Tensor:
        image: Tensor = torch.fft.irfftn(spectrum, s=self.in_shape[1:], dim=self.axes)
        return image

    def _decompose(self) -> SVD:
        reference = self.to("cpu", torch.float64)
        decomposition = HartleySVD(self.in_shape, torch.fft.fftn(reference._to_image(reference.spectrum)))
        return decomposition.to(self.spectrum.device, self.spectrum.real.dtype)


class HartleySVD(SVD):
    r"""SVD of a circular convolution in real coordinates: :math:`s = |\hat k|`, and :math:`V` is the Hartley transform.

    .. math:: V^\top = \operatorname{Re} F - \operatorname{Im} F, \qquad
        U^\top = V^\top F^{-1} \operatorname{diag}(\hat k^* / |\hat k|) F

    with :math:`F` the unitary Fourier transform. :math:`V` is real, symmetric and orthogonal, so it is its own inverse. The
    frequencies :math:`\pm\omega` have the same singular value, and :math:`U` rotates their plane by the phase of
    :math:`\hat k`. Half a complex spectrum would be enough to apply weights, but white noise is not white in it, because most
    of its columns stand for two frequencies.

    Args:
        in_shape: Shape of one ``x``, ``(C, H, W)`` or ``(C, D, H, W)``, which is also the shape of the coordinates.
        spectrum: The full spectrum :math:`\hat k`, shape ``(H, W)`` or ``(D, H, W)``, complex128.

    References:
        Bracewell, Discrete Hartley transform, 1983, https://doi.org/10.1364/JOSA.73.001832
    """

    kind = "frequency"

    def __init__(self, in_shape: tuple[int, ...], spectrum: Tensor) -> None:
        self.shape, self._values, self.axes = in_shape, spectrum.abs(), tuple(range(-spectrum.ndim, 0))
        self.turn = torch.where(self._values > 0, spectrum.conj() / self._values, 1)

    def analyze(self, x: Tensor) -> Tensor:
        return _hartley(torch.fft.fftn(x, dim=self.axes, norm="ortho"))

    def synthesize(self, x_bar: Tensor) -> Tensor:
        return self.analyze(x_bar)

    def _rotate(self, y: Tensor) -> Tensor:
        return _hartley(self.turn.to(y.device, y.dtype.to_complex()) * torch.fft.fftn(y, dim=self.axes, norm="ortho"))

    def diagonal(self, values: Tensor) -> Tensor:
        # Opposite frequencies share a plane, in basis vectors turned by 45 degrees: only their mean variance remains.
        return values.mean(self.axes, keepdim=True).expand(values.shape)

    def power(self, values: Tensor) -> Tensor:
        opposite = values.flip(self.axes).roll((1,) * len(self.axes), self.axes)
        return ((values + opposite) / 2)[..., : values.shape[-1] // 2 + 1]


class PaddedConvolution(LinearOperator):
    r"""Convolution with a boundary condition: padding, circular convolution, cropping.

    .. math:: A = C\, F^{-1} \operatorname{diag}(\hat k) F\, P

    with :math:`P` and :math:`C` as in :class:`Border`. ``solve`` is iterative, preconditioned by the solve on the torus.

    Args:
        in_shape: Image shape ``(C, H, W)``, or volume shape ``(C, D, H, W)``, without the batch axis.
        kernel: Kernel, float64, not larger than the image, shape ``(h, w)`` or ``(d, h, w)``.
        boundary: One of ``BOUNDARIES``.
        sigma_y: Noise standard deviation, in image units. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.
    """

    def __init__(
        self, in_shape: Sequence[int], kernel: Tensor, boundary: str, *, sigma_y: float = 0.0, noise: Noise | None = None
    ) -> None:
        self.in_shape = event_shape("PaddedConvolution", in_shape)
        channels, *sides = self.in_shape
        self.border = Border(boundary, sides, kernel.shape)
        self.circular = CircularConvolution((channels, *self.border.torus), kernel)
        self.out_shape = channels, *self.border.out
        self.noise = noise_of(sigma_y, noise)

    def forward(self, x: Tensor) -> Tensor:
        return with_adjoint(x, self._convolve, self._correlate)

    def adjoint(self, y: Tensor) -> Tensor:
        return with_adjoint(y, self._correlate, self._convolve)

    def _convolve(self, x: Tensor) -> Tensor:
        return self.border.crop(self.circular.forward(self.border.extend(x)))

    def _correlate(self, y: Tensor) -> Tensor:
        return self.border.fold(self.circular.adjoint(self.border.embed(y)))

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        # As if the image were periodic on the torus, which is wrong only along the border.
        return self.border.crop(self.circular.solve(self.border.embed(v), lam))

    def _soften(self, lam: Tensor) -> Tensor:
        # Valid pixels do not depend on the border.
        return lam if self.border.boundary == "valid" else soften(lam, self.circular.spectrum)


def soften(lam: Tensor, spectrum: Tensor) -> Tensor:
    r"""Return the best :math:`\lambda` for a circular convolution that preconditions a non-circular one.

    At the original :math:`\lambda` the error at the border can reach a factor of :math:`|\hat k|^2 / \lambda`. The geometric
    mean of :math:`|\hat k|^2` and :math:`\lambda` took the fewest iterations of all multiples of ``lam`` that were tried, for
    ``lam`` from 1e-1 down to 1e-4.
    """
    gain = spectrum.to(lam.device).abs().amax().to(lam) ** 2
    return torch.maximum(lam, (gain * lam.clamp(min=torch.finfo(lam.dtype).eps * gain)).sqrt())


def convolution_matrix(side: int, kernel: Tensor, boundary: str) -> Tensor:
    """Return the matrix of the one-dimensional convolution of ``side`` pixels with a kernel of length ``n``, float64.

    Its shape is ``(side, side)``, or ``(side - n + 1, side)`` for the boundary ``valid``.
    """
    from scipy.ndimage import convolve1d

    size = len(kernel)
    matrix = torch.from_numpy(convolve1d(np.eye(side), kernel.numpy(force=True), axis=0, mode=SCIPY_MODES[boundary]))
    return matrix[(size - 1) // 2 : side - size // 2] if boundary == "valid" else matrix


def separate(kernel: Tensor, given: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """Return the column and the row whose product is ``kernel`` to the rounding error of ``given``, or None."""
    u, s, vt = torch.linalg.svd(kernel, full_matrices=False)
    eps = torch.finfo(given if given.is_floating_point else torch.float64).eps
    if (s[1:] > 10 * eps * s[0]).any():
        return None
    return u[:, 0] * s[0], vt[0]


def _hartley(spectrum: Tensor) -> Tensor:
    """Return the Hartley transform of the real image whose Fourier transform is ``spectrum``."""
    return spectrum.real - spectrum.imag
