"""A linear operator given by its matrix."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..core.noise import Noise, noise_of
from ..core.operator import DENSE_SVD, LinearOperator
from ..core.svd import SVD, DenseSVD
from ..core.validation import real_matrix

__all__ = ["Matrix"]


class Matrix(LinearOperator):
    r"""Any linear measurement of a vector, given by its dense matrix.

    .. math:: y = A x + n, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    Args:
        matrix: :math:`A`, shape ``(m, n)``, of any rank. Vectors are ``(B, n)``, measurements ``(B, m)``.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        TypeError: If ``matrix`` is complex.
        ValueError: If it is not two-dimensional, is empty, or holds a value that is not finite.
    """

    def __init__(self, matrix: Tensor | np.ndarray, *, sigma_y: float = 0.0, noise: Noise | None = None) -> None:
        self.matrix = real_matrix("Matrix", "matrix", matrix)
        self.in_shape, self.out_shape = (self.matrix.shape[1],), (self.matrix.shape[0],)
        self.noise = noise_of(sigma_y, noise)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.to(x).mT

    def adjoint(self, y: Tensor) -> Tensor:
        return y @ self.matrix.to(y)

    def _decompose(self) -> SVD | None:
        if self.matrix.shape[1] > DENSE_SVD:
            return None
        return DenseSVD(self.matrix.mT.to("cpu", torch.float64), self.in_shape).to(self.matrix.device, self.matrix.dtype)
