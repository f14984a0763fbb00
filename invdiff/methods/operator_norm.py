"""The spectral norm of the measurement operator."""

from __future__ import annotations

from torch import Tensor

from invdiff.linalg import largest_singular_values, over_items
from invdiff.operators import LinearOperator

__all__ = ["operator_norm"]


def operator_norm(op: LinearOperator, y: Tensor, *, iterations: int = 30) -> Tensor:
    r"""Return :math:`\lVert A \rVert` by power iteration, a lower bound: a scalar, or per item, shaped to multiply ``y``.

    Args:
        op: The measurement.
        y: Measurement, ``(B, *op.out_shape)``. The result has its dtype and device.
        iterations: Number of power iterations.
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
