"""Blur by a known kernel: deblurring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from .base import LinearOperator
from .checks import image_shape, real_matrix
from .convolution import CircularConvolution, PaddedConvolution, convolution_matrix
from .noise import GaussianNoise
from .separable import Separable
from .svd import SVD

__all__ = ["BOUNDARIES", "Blur"]

BOUNDARIES = ("circular", "reflect", "zero")


class Blur(LinearOperator):
    r"""Convolution of every channel with one known kernel: the measurement of deblurring.

    .. math:: y_{ij} = \sum_{a, b} k_{ab}\, x_{i - a + \lfloor h / 2 \rfloor,\, j - b + \lfloor w / 2 \rfloor} + n_{ij},
        \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    A true convolution (the kernel is flipped, and is the image of a bright point), centred at ``(h // 2, w // 2)``. The
    kernel is used as it is: one that does not sum to one changes the brightness.

    ======== ============================================== ==============================================
    boundary beyond the border                              ``solve``
    ======== ============================================== ==============================================
    circular the image begins again                         closed form (Fourier)
    reflect  mirrored, the border pixel not repeated        closed form if the kernel is separable, else iterative
    zero     0: mid-grey, as images span [-1, 1]            closed form if the kernel is separable, else iterative
    ======== ============================================== ==============================================

    A kernel counts as separable if it is a product of a column and a row to within the rounding of its dtype, as
    Gaussians and boxes are.

    Args:
        in_shape: Image shape ``(C, H, W)``, without the batch axis.
        kernel: :math:`k`, shape ``(h, w)``, not larger than the image.
        boundary: One of ``BOUNDARIES``.
        sigma_y: Noise standard deviation, in image units (images span [-1, 1]). Zero: no noise.

    Raises:
        TypeError: If the kernel is complex.
        ValueError: If the kernel is not two-dimensional, not finite, sums to zero or is larger than the image, or if the
            boundary is unknown.
    """

    def __init__(
        self, in_shape: Sequence[int], kernel: Tensor | np.ndarray, *, boundary: str = "circular", sigma_y: float = 0.0
    ) -> None:
        channels, height, width = image_shape("Blur", in_shape)
        if boundary not in BOUNDARIES:
            raise ValueError(f"Blur: unknown boundary {boundary!r}, expected one of {', '.join(BOUNDARIES)}.")
        self.kernel = real_matrix("Blur", "kernel", kernel)
        rows, columns = self.kernel.shape
        if rows > height or columns > width:
            raise ValueError(
                f"Blur: the kernel must not be larger than the image, got kernel {rows} x {columns} "
                f"for height {height}, width {width}. Crop the kernel to where it is not zero."
            )
        if self.kernel.sum().abs() <= 1e-12 * self.kernel.abs().sum():
            raise ValueError(
                f"Blur: the kernel must not sum to zero, got sum {float(self.kernel.sum()):g}. "
                "A kernel that removes the mean is no blur: use LinearFunction."
            )
        self.convolution: LinearOperator
        if boundary == "circular":
            self.convolution = CircularConvolution((channels, height, width), self.kernel)
        elif (factors := _separate(self.kernel, torch.as_tensor(kernel).dtype)) is not None:
            left, right = convolution_matrix(height, factors[0], boundary), convolution_matrix(width, factors[1], boundary)
            self.convolution = Separable((channels, height, width), left, right)
        else:
            self.convolution = PaddedConvolution((channels, height, width), self.kernel, boundary)
        self.in_shape = self.out_shape = channels, height, width
        self.closed_form = self.convolution.closed_form
        self.boundary, self.noise = boundary, GaussianNoise(sigma_y)

    @classmethod
    def examples(cls) -> list[Self]:
        separable = torch.tensor([0.25, 0.7, 0.1]).outer(torch.tensor([0.1, 0.2, 0.8, 0.15]))
        diagonal = torch.eye(3, dtype=torch.float64) / 6 + torch.tensor([[0, 0, 0], [0, 0.5, 0], [0, 0, 0]])
        shape = (3, 8, 11)
        box = torch.full((1, 4), 0.25)  # Circular on a width of 12, it wipes out whole frequencies.
        singular = cls((3, 8, 12), box, sigma_y=0.05)
        paths = [cls(shape, kernel, boundary=b, sigma_y=0.05) for b in BOUNDARIES for kernel in (separable, diagonal)]
        return [singular, *paths]

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution.forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.convolution.adjoint(y)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self.convolution.solve(v, lam)

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self.convolution.precondition(v, lam)

    def pinv(self, y: Tensor) -> Tensor:
        return self.convolution.pinv(y)

    def _decompose(self) -> SVD | None:
        return self.convolution.svd


def _separate(kernel: Tensor, given: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """Return the column and the row whose product is ``kernel``, or None if that does not hold to the rounding of ``given``."""
    u, s, vt = torch.linalg.svd(kernel, full_matrices=False)
    eps = torch.finfo(given if given.is_floating_point else torch.float64).eps
    if (s[1:] > 10 * eps * s[0]).any():
        return None
    return u[:, 0] * s[0], vt[0]
