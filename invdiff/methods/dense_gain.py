r"""The Kalman gain of a low-dimensional measurement, with its covariance matrix in dense form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invdiff.linalg import over_items, positive_solve
from invdiff.operators import LinearOperator

__all__ = ["dense_gain"]


def dense_gain(product: Callable[[Tensor], Tensor], linear: LinearOperator, residual: Tensor, *, variance: float) -> Tensor:
    r"""Return :math:`V A^\top (\sigma_y^2 I + A V A^\top)^{-1} r`, by one product with :math:`V` per measured value.

    The matrix :math:`A V A^\top` is symmetrized and its negative eigenvalues are set to zero. For exact data, directions whose
    eigenvalue is below rounding error are ignored.

    Args:
        product: :math:`v \mapsto V v`.
        linear: :math:`A`.
        residual: :math:`r`, ``(B, *out_shape)``.
        variance: :math:`\sigma_y^2`.
    """
    flat = residual.flatten(1)
    basis = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
    columns = [product(linear.adjoint(e.expand_as(flat).reshape(residual.shape))) for e in basis]  # V A^T e_i
    gram = torch.stack([linear(column).flatten(1) for column in columns], -1)
    # Eigenvalues below the rounding error of the largest entry are meaningless.
    rounding = 4 * flat.shape[1] * torch.finfo(gram.dtype).eps * gram.abs().amax((1, 2)) + torch.finfo(gram.dtype).tiny
    w = positive_solve(gram + variance * basis, flat, floor=rounding.clamp(min=variance))
    return torch.stack([over_items(w[:, i], column) * column for i, column in enumerate(columns)]).sum(0)
