"""The norm of the measurement operator, which methods scale by."""

from __future__ import annotations

from torch import Tensor

from invdiff.linalg import largest_singular_values, over_items
from invdiff.operators import LinearOperator

__all__ = ["operator_norm"]


def operator_norm(op: LinearOperator, y: Tensor, *, iterations: int = 30) -> Tensor:
    r"""Return :math:`\lVert A \rVert` by power iteration, a lower bound: a number, or one per item, shaped to multiply ``y``.

    Args:
        op: The measurement.
        y: What was measured, ``(B, *op.out_shape)``, whose dtype and device the result has.
        iterations: Of the power method.
    """
    values = largest_singular_values(
        op.forward,
        op.adjoint,
        op.in_shape,
        items=op.items or 1,
        iterations=iterations,
        device=y.device,
        dtype=y.dtype,
    ).to(y)
    return values[0] if op.items is None else over_items(values, y)
