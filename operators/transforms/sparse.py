"""Differentiable products with sparse matrices, for ray transforms."""

from __future__ import annotations

import warnings
from typing import Any

import scipy
import torch
from torch import Tensor

from invdiff.movable import Movable

__all__ = ["SparseRows", "sparse_product"]


class SparseRows(Movable):
    """A sparse matrix in compressed sparse row (CSR) format, for products on any device.

    It is stored as three dense tensors, because sparse tensors cannot be deep-copied.

    Args:
        matrix: The matrix, real. Its values keep their dtype.
    """

    def __init__(self, matrix: scipy.sparse.csr_array[Any]) -> None:
        matrix.sort_indices()  # Required by torch.
        rows, columns = matrix.shape
        self.shape = rows, columns
        self.starts, self.columns = torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices)
        self.values = torch.from_numpy(matrix.data)

    def times(self, x: Tensor) -> Tensor:
        """Return the product with each row of ``x``: ``(B, columns)`` to ``(B, rows)``."""
        half = x.dtype in (torch.float16, torch.bfloat16)  # Sums of hundreds of terms; and the CPU has no such product.
        vectors = x.float() if half else x
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            matrix = torch.sparse_csr_tensor(
                self.starts.to(x.device),
                self.columns.to(x.device),
                self.values.to(vectors),
                size=self.shape,
                check_invariants=False,
            )
        # For a single vector the matrix-vector product is faster.
        product = (matrix @ vectors[0]).unsqueeze(0) if len(vectors) == 1 else (matrix @ vectors.mT).mT.contiguous()
        return product.to(x.dtype)


class _SparseProduct(torch.autograd.Function):
    # The derivative in torch would transpose the matrix at every call, and has no forward mode.

    @staticmethod
    def forward(x: Tensor, matrix: SparseRows, transposed: SparseRows) -> Tensor:
        return matrix.times(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, SparseRows, SparseRows], output: Tensor) -> None:
        _, ctx.matrix, ctx.transposed = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return sparse_product(gradients[0], ctx.transposed, ctx.matrix), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return sparse_product(tangents[0], ctx.matrix, ctx.transposed)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int | None]:
        x, matrix, transposed = args
        if in_dims[0] is None:
            return sparse_product(x, matrix, transposed), None
        rows = x.movedim(in_dims[0], 0)
        return sparse_product(rows.flatten(0, 1), matrix, transposed).reshape(*rows.shape[:2], -1), 0


def sparse_product(x: Tensor, matrix: SparseRows, transposed: SparseRows) -> Tensor:
    """Return the product of ``matrix`` with each row of ``x``, differentiable in forward and reverse mode.

    Args:
        x: Vectors, ``(B, columns)``.
        matrix: The matrix.
        transposed: Its transpose, also in CSR format. It doubles the memory, but sums over rows are fast and reproducible.
    """
    product: Tensor = _SparseProduct.apply(x, matrix, transposed)
    return product
