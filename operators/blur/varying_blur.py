"""Spatially varying blur, as from lenses with unsharp corners or from rotational motion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..core.autograd import with_adjoint
from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator
from ..core.validation import image_shape
from .blur import fitting_kernel
from .boundaries import Border
from .convolution import CircularConvolution, soften

__all__ = ["VaryingBlur"]


class VaryingBlur(LinearOperator):
    r"""A blur whose kernel varies over the image: a sum of convolutions of weighted images.

    .. math:: y = \sum_k h_k * (w_k \odot x) + n, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    So the image of a bright point at :math:`s` is :math:`\sum_k w_k(s)\, h_k`, which interpolates the point spread function
    between positions. In the literature this is called a product-convolution expansion.

    Kernels have the convention of :class:`Blur`, with the center at ``(h // 2, w // 2)``. Kernels and weights are not
    normalized: brightness is preserved if every kernel sums to one and the weights sum to one at each pixel. The boundary
    condition applies to :math:`w_k \odot x`. ``solve`` is iterative, preconditioned by the mean kernel.

    Args:
        in_shape: Image shape ``(C, H, W)``, without the batch axis.
        kernels: :math:`h_k`, shape ``(K, h, w)``, not larger than the image.
        weights: :math:`w_k`, shape ``(K, H, W)``.
        boundary: One of ``BOUNDARIES``, as for :class:`Blur`: circular, reflect, zero, symmetric, replicate, valid.
        sigma_y: Noise standard deviation, in image units (images span [-1, 1]). Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Cost: one Fourier transform for each kernel, and one more.

    Raises:
        TypeError: If kernels or weights are complex.
        ValueError: If they do not fit together or are not finite, a kernel sums to zero, or the boundary is unknown.

    References:
        Escande & Weiss, Approximation of integral operators using product-convolution expansions, 2017,
        https://arxiv.org/abs/1604.04374
        Nagy & O'Leary, Restoring images degraded by spatially variant blur, 1998,
        https://doi.org/10.1137/S106482759528507X
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        kernels: Tensor | np.ndarray,
        weights: Tensor | np.ndarray,
        *,
        boundary: str,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        shape = channels, height, width = image_shape("VaryingBlur", in_shape)
        given, shares = torch.as_tensor(kernels), torch.as_tensor(weights)
        if given.ndim != 3 or not len(given):
            raise ValueError(f"VaryingBlur: kernels must have shape (K, h, w) with K >= 1, got shape {tuple(given.shape)}.")
        if shares.shape != (len(given), height, width):
            raise ValueError(
                f"VaryingBlur: weights must have shape {(len(given), height, width)}, one image for each of {len(given)} "
                f"kernels, got shape {tuple(shares.shape)}."
            )
        if shares.is_complex():
            raise TypeError(f"VaryingBlur: weights must be real, got {shares.dtype}.")
        if not shares.isfinite().all():
            raise ValueError(
                f"VaryingBlur: weights must be finite, got {int((~shares.isfinite()).sum())} NaN or infinite values."
            )
        checked = torch.stack([fitting_kernel("VaryingBlur", kernel, shape, boundary) for kernel in given])
        shares = shares.to(torch.float64, copy=True)
        self.border = Border(boundary, (height, width), (checked.shape[1], checked.shape[2]))
        torus = (channels, *self.border.torus)
        self.spectra = torch.stack([CircularConvolution(torus, kernel).spectrum for kernel in checked])
        self.weights = self.border.extend(shares)
        self.mean = CircularConvolution(torus, torch.einsum("k,kij->ij", shares.mean((1, 2)), checked))
        self.in_shape, self.out_shape = shape, (channels, *self.border.out)
        self.boundary, self.noise = boundary, noise_of(sigma_y, noise)

    def forward(self, x: Tensor) -> Tensor:
        return with_adjoint(x, self._forward, self._adjoint)

    def adjoint(self, y: Tensor) -> Tensor:
        return with_adjoint(y, self._adjoint, self._forward)

    def _forward(self, x: Tensor) -> Tensor:
        x = self.border.extend(x)
        total = x.new_zeros(())  # Summed in the spectrum, so that one inverse transform is enough.
        for spectrum, weight in zip(self.spectra, self.weights, strict=True):
            total = total + spectrum.to(x.device, x.dtype.to_complex()) * torch.fft.rfft2(weight.to(x) * x)
        return self.border.crop(torch.fft.irfft2(total, s=self.border.torus))

    def _adjoint(self, y: Tensor) -> Tensor:
        transformed, total = torch.fft.rfft2(self.border.embed(y)), y.new_zeros(())
        for spectrum, weight in zip(self.spectra, self.weights, strict=True):
            back = torch.fft.irfft2(spectrum.to(transformed).conj() * transformed, s=self.border.torus)
            total = total + weight.to(y) * back
        return self.border.fold(total)

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self.border.crop(self.mean.solve(self.border.embed(v), lam))

    def _soften(self, lam: Tensor) -> Tensor:
        return soften(lam, self.mean.spectrum)
