"""Separable operators, which act on columns and rows one after the other: separable blur, bicubic downsampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator, pseudo_divide
from ..core.svd import SVD, SeparableSVD
from ..core.validation import image_shape, real_matrix
from .banded_product import SeparableProduct

__all__ = ["KroneckerSVD", "Separable"]


class Separable(LinearOperator):
    r"""A separable operator: one matrix multiplies the columns of every channel, another one its rows.

    .. math:: y_c = L\, x_c\, R^\top + n, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    With the decompositions :math:`L = U_L S_L V_L^\top` and :math:`R = U_R S_R V_R^\top`, the singular values of the operator
    are the products :math:`s_{ij} = (S_L)_i (S_R)_j`, so that

    .. math:: (A A^\top + \lambda I)^{-1} v = U_L \left[ (U_L^\top v\, U_R)_{ij} / (s_{ij}^2 + \lambda) \right] U_R^\top

    Args:
        in_shape: Image shape ``(C, H, W)``, without the batch axis.
        left: :math:`L`, shape ``(P, H)`` with ``P`` at most ``H``.
        right: :math:`R`, shape ``(Q, W)`` with ``Q`` at most ``W``. Measurements are ``(B, C, P, Q)``.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.
        kind: Type of the singular basis, one of :data:`invdiff.noise_covariance.NOISE_KINDS`.

    Raises:
        ValueError: If the shapes do not fit together.
    """

    closed_form = True

    def __init__(
        self,
        in_shape: Sequence[int],
        left: Tensor,
        right: Tensor,
        *,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
        kind: str = "dense",
    ) -> None:
        self.kind = kind
        channels, height, width = image_shape("Separable", in_shape)
        left, right = real_matrix("Separable", "left", left), real_matrix("Separable", "right", right)
        for name, matrix, side in (("left", left, height), ("right", right, width)):
            if matrix.shape[1] != side or matrix.shape[0] > side:
                raise ValueError(
                    f"Separable: {name} must have {side} columns and at most as many rows for in_shape "
                    f"{(channels, height, width)}, got shape {tuple(matrix.shape)}."
                )
        self.in_shape = channels, height, width
        self.out_shape = channels, left.shape[0], right.shape[0]
        self.noise = noise_of(sigma_y, noise)
        self.product = SeparableProduct(left, right)
        self.u_left, s_left, self.vt_left = torch.linalg.svd(left, full_matrices=False)
        self.u_right, s_right, self.vt_right = torch.linalg.svd(right, full_matrices=False)
        self.singular = s_left.unsqueeze(-1) * s_right

    def forward(self, x: Tensor) -> Tensor:
        return self.product.forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.product.adjoint(y)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        coefficients = _both_sides(self.u_left.mT, v, self.u_right.mT)
        return _both_sides(self.u_left, pseudo_divide(coefficients, self.singular.to(v) ** 2, lam), self.u_right)

    def pinv(self, y: Tensor) -> Tensor:
        # Divides by each singular value once. Going through solve would square the condition number.
        singular, coefficients = self.singular.to(y), _both_sides(self.u_left.mT, y, self.u_right.mT)
        return _both_sides(self.vt_left.mT, pseudo_divide(singular * coefficients, singular**2, 0.0), self.vt_right.mT)

    def _decompose(self) -> SVD:
        left, right = self.product.left, self.product.right
        sides = left.to("cpu", torch.float64), right.to("cpu", torch.float64)
        reference = KroneckerSVD(self.in_shape, *sides, kind=self.kind)
        return reference.to(left.device, left.dtype)


class KroneckerSVD(SeparableSVD):
    r"""SVD of a separable operator: :math:`\bar x_c = V_L^\top x_c V_R` with :math:`s_{ij} = (S_L)_i (S_R)_j`.

    :math:`V_L` and :math:`V_R` are square: unlike in the operator, they are completed by bases of the null spaces.

    Args:
        in_shape: Image shape ``(C, H, W)``, which is also the shape of the coordinates.
        left: :math:`L`, shape ``(P, H)``, float64.
        right: :math:`R`, shape ``(Q, W)``, float64.
        kind: Type of the basis, one of :data:`invdiff.noise_covariance.NOISE_KINDS`.
    """

    def __init__(self, in_shape: tuple[int, ...], left: Tensor, right: Tensor, *, kind: str = "dense") -> None:
        _, height, width = self.shape = in_shape
        self.kind = kind
        # All columns of V in either case.
        self.u_left, s_left, self.left = torch.linalg.svd(left, full_matrices=len(left) < height)
        self.u_right, s_right, self.right = torch.linalg.svd(right, full_matrices=len(right) < width)
        self.unmeasured = width - len(s_right), height - len(s_left)
        self._values = self._complete(s_left.unsqueeze(-1) * s_right)

    def _rotate(self, y: Tensor) -> Tensor:
        return self._complete(_both_sides(self.u_left.mT, y, self.u_right.mT))

    def _complete(self, coefficients: Tensor) -> Tensor:
        columns, rows = self.unmeasured
        return torch.nn.functional.pad(coefficients, (0, columns, 0, rows))


def _both_sides(left: Tensor, x: Tensor, right: Tensor) -> Tensor:
    r"""Return :math:`L x R^\top`, in the dtype and on the device of ``x``."""
    product: Tensor = left.to(x) @ x @ right.to(x).mT
    return product
