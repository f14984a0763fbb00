"""Blur with a known kernel, for deblurring."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy
import torch
from torch import Tensor

from ..core.completed import Completed
from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator
from ..core.svd import SVD
from ..core.torus import TorusConvolution
from ..core.validation import real_array, sides_in_words, volume_shape
from ..sampling.crop import Crop
from .banded_product import SeparableProduct
from .boundaries import BOUNDARIES
from .convolution import CircularConvolution, PaddedConvolution, convolution_matrix, separate
from .mirrored_blur import CosineConvolution, is_doubly_symmetric
from .separable import Separable

__all__ = ["BOUNDARIES", "Blur", "blur_kernel", "fitting_kernel"]

LONG = 64  # Height plus width of a kernel from which on Fourier transforms, of fast sizes, took no longer than banded matrices.


class Blur(LinearOperator):
    r"""Convolution of every channel with one known kernel: the operator of deblurring.

    .. math:: y_{ij} = \sum_{a, b} k_{ab}\, x_{i - a + \lfloor h / 2 \rfloor,\, j - b + \lfloor w / 2 \rfloor} + n_{ij},
        \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    This is a true convolution: the kernel is flipped, so it is the image of a bright point. Its center is at
    ``(h // 2, w // 2)``. The kernel is not normalized: if it does not sum to one, the brightness changes.

    ========= ============================================ ============= ===============================================
    boundary  beyond the border                            scipy.ndimage ``solve``
    ========= ============================================ ============= ===============================================
    circular  periodic                                     wrap          closed form (Fourier)
    reflect   mirrored, the border pixel not repeated      mirror        closed form if separable, else iterative
    zero      0: mid-gray, as images span [-1, 1]          constant      closed form if separable, else iterative
    symmetric mirrored, the border pixel repeated          reflect       closed form if separable or doubly symmetric (a
                                                                         cosine transform), else iterative
    replicate the border pixel repeated forever            nearest       closed form if separable, else iterative
    valid     not used: only pixels that do not depend on  none (scipy.  closed form if separable, else iterative
              it are measured, ``y`` is ``h - 1`` x        signal:
              ``w - 1`` smaller than ``x``                 valid)
    ========= ============================================ ============= ===============================================

    A kernel counts as separable if it is the product of a column and a row to within the rounding error of its dtype, like
    Gaussians and boxes. It counts as doubly symmetric if its sides are odd and it is equal to both of its mirror images, like
    discs and diffraction patterns. Row 0 of ``y`` is row ``(h - 1) // 2`` of ``x`` if the boundary is ``valid``, else row 0.

    Separable kernels are applied to rows and columns by banded matrices. Other kernels are applied by Fourier transforms, and
    so are long ones if the boundary is ``circular``.

    Volumes ``(C, D, H, W)`` are blurred likewise along three axes, by a kernel ``(d, h, w)``; ``solve`` then has a closed form
    if the boundary is ``circular``, and is iterative otherwise. To blur every slice by itself, see :func:`per_slice`.

    Args:
        in_shape: Image shape ``(C, H, W)``, or volume shape ``(C, D, H, W)``, without the batch axis.
        kernel: :math:`k`, shape ``(h, w)``, or ``(d, h, w)`` for volumes, not larger than the image.
        boundary: One of ``BOUNDARIES``.
        sigma_y: Noise standard deviation, in image units (images span [-1, 1]). Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        TypeError: If the kernel is complex.
        ValueError: If the kernel has not one axis for each axis of the image, is not finite, sums to zero or is larger than
            the image, or if the boundary is unknown.

    References:
        Hansen, Nagy & O'Leary, Deblurring Images: Matrices, Spectra, and Filtering, 2006, chapters 3 and 4,
        https://doi.org/10.1137/1.9780898718874
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        kernel: Tensor | np.ndarray,
        *,
        boundary: str = "circular",
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        shape = volume_shape("Blur", in_shape)
        self.kernel = blur_kernel("Blur", kernel, shape, boundary)
        given = torch.as_tensor(kernel).dtype
        factors = (separate(self.kernel, given) or ()) if len(shape) == 3 else ()
        matrices = [convolution_matrix(side, part, boundary) for side, part in zip(shape[1:], factors, strict=False)]
        self.product: SeparableProduct | None = None
        self.convolution: LinearOperator
        if boundary == "circular":
            # From the separable factors if there are any, so that solve inverts forward to rounding error in float64.
            self.convolution = CircularConvolution(shape, torch.outer(*factors) if factors else self.kernel)
            fast = all(scipy.fft.next_fast_len(side, real=True) == side for side in shape[1:])
            self.product = SeparableProduct(*matrices) if factors and not (fast and sum(self.kernel.shape) >= LONG) else None
        elif factors:
            self.convolution = Separable(shape, *matrices, kind="dense" if boundary == "valid" else "frequency")
        elif boundary == "symmetric" and len(shape) == 3 and is_doubly_symmetric(self.kernel, given):
            self.convolution = CosineConvolution(shape, self.kernel)
        else:
            self.convolution = PaddedConvolution(shape, self.kernel, boundary)
        self.in_shape, self.out_shape = shape, self.convolution.out_shape
        self.closed_form = self.convolution.closed_form
        self.boundary, self.noise = boundary, noise_of(sigma_y, noise)

    def _summary(self) -> Sequence[str]:
        return (
            f"{' x '.join(map(str, self.kernel.shape))} kernel",
            self.boundary,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self._applied(x).forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._applied(y).adjoint(y)

    def _applied(self, x: Tensor) -> SeparableProduct | LinearOperator:
        # Banded matrices of short kernels took a third to two thirds of the time of Fourier transforms, on a CPU only.
        return self.convolution if self.product is None or x.is_cuda else self.product

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self.convolution.solve(v, lam)

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self.convolution.precondition(v, lam)

    def pinv(self, y: Tensor) -> Tensor:
        return self.convolution.pinv(y)

    @property
    def completed(self) -> Completed | None:
        if self.boundary != "valid" or len(self.in_shape) != 3:
            return None
        whole = Blur(self.in_shape, self.kernel, noise=self.noise)
        top, left = ((side - 1) // 2 for side in self.kernel.shape)
        height, width = self.out_shape[1:]
        return Completed(whole, Crop(self.in_shape, top=top, left=left, height=height, width=width))

    def as_torus_convolution(self) -> TorusConvolution | None:
        return self.convolution.as_torus_convolution()

    def _decompose(self) -> SVD | None:
        return self.convolution.svd


def blur_kernel(owner: str, kernel: Tensor | np.ndarray, in_shape: tuple[int, ...], boundary: str) -> Tensor:
    """Return a float64 copy of a blur kernel for images of this shape; raise ``ValueError`` if it is not one."""
    checked = fitting_kernel(owner, kernel, in_shape, boundary)
    if checked.sum().abs() <= 1e-12 * checked.abs().sum():
        raise ValueError(
            f"{owner}: the kernel must not sum to zero, got sum {float(checked.sum()):g}. "
            "For a kernel that removes the mean use SubsampledConvolution with stride=1."
        )
    return checked


def fitting_kernel(owner: str, kernel: Tensor | np.ndarray, in_shape: tuple[int, ...], boundary: str) -> Tensor:
    """Return a float64 copy of a kernel that is not larger than the images; raise ``ValueError`` if it does not fit."""
    if boundary not in BOUNDARIES:
        raise ValueError(f"{owner}: unknown boundary {boundary!r}, expected one of {', '.join(BOUNDARIES)}.")
    if len(in_shape) == 4 and torch.as_tensor(kernel).ndim == 2:
        raise ValueError(
            f"{owner}: a volume {in_shape} needs a kernel (d, h, w), got one of shape {tuple(kernel.shape)}. To blur every "
            "slice by itself: per_slice(Blur((C, H, W), kernel), D)."
        )
    checked, sides = real_array(owner, "kernel", kernel, axes=len(in_shape) - 1), in_shape[1:]
    if any(size > side for size, side in zip(checked.shape, sides, strict=True)):
        raise ValueError(
            f"{owner}: the kernel must not be larger than the image, got kernel {' x '.join(map(str, checked.shape))} "
            f"for {sides_in_words(sides)}. Crop the zeros around the kernel."
        )
    return checked
