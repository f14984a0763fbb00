"""Gaussian densities of small vectors whose covariance may be singular."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.linalg import positive_eigen

__all__ = ["inverse_eigen", "log_normal"]


def log_normal(residual: Tensor, covariance: Tensor) -> Tensor:
    r"""Return :math:`\log \mathcal{N}(r; 0, S)`, ``(B,)``, over the directions where :math:`S` is not singular.

    Args:
        residual: :math:`r`, ``(B, d)``.
        covariance: :math:`S`, ``(B, d, d)``.
    """
    inverse, log_values, vectors = inverse_eigen(covariance)
    coefficients = torch.einsum("bij,bi->bj", vectors, residual)
    return -0.5 * (coefficients**2 * inverse + log_values).sum(1)


def inverse_eigen(covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return the inverse eigenvalues :math:`1 / \lambda_i` of :math:`S`, :math:`\log(2 \pi \lambda_i)`, and the eigenvectors.

    Where an eigenvalue is below rounding error (exact data, missing pixels), the first two are 0.

    Args:
        covariance: :math:`S`, ``(B, d, d)``.
    """
    values, vectors = positive_eigen(covariance)
    info, size = torch.finfo(covariance.dtype), covariance.shape[1]
    rounding = 4 * size * info.eps * covariance.abs().amax((1, 2)) + info.tiny
    kept = ~(values <= rounding[:, None])
    safe = torch.where(kept, values, 1)
    return torch.where(kept, 1 / safe, 0), torch.where(kept, (2 * math.pi * safe).log(), 0), vectors
