"""A gradient step toward the data, for methods that do not use the noise level of the measurement."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.linalg import norm, over_items
from invdiff.methods.operator_norm import operator_norm
from invdiff.operators import LinearOperator, Operator

__all__ = ["TowardData"]


class TowardData:
    r"""Steps down the gradient of :math:`\tfrac12 \lVert y - A(x) \rVert^2`, of a length that suits the operator.

    Linear operators: :math:`x + \zeta \lVert A \rVert^{-2} A^\top (y - A x)`, which converges for :math:`\zeta < 2`. Others:
    :math:`x + \zeta\, \frac{\lVert g \rVert^2}{\lVert J g \rVert^2}\, g` with :math:`g = J^\top (y - A(x))` and the Jacobian
    :math:`J` at :math:`x`, where :math:`\zeta = 1` is the minimum of the linearized misfit along :math:`g`.

    Args:
        op: The measurement.
        y: Measurement, ``(B, *op.out_shape)``.
    """

    def __init__(self, op: Operator, y: Tensor) -> None:
        self.op, self.y = op, y
        self.inverse = 1 / operator_norm(op, y) ** 2 if isinstance(op, LinearOperator) else None

    def __call__(self, x: Tensor, zeta: float) -> Tensor:
        r"""Return ``x`` after a step of length :math:`\zeta`."""
        measured, linear = self.op.linearized(x)
        gradient = linear.adjoint(self.y - measured)
        if self.inverse is not None:
            inverse = over_items(self.inverse, x) if self.inverse.ndim else self.inverse
            return x + zeta * inverse * gradient
        length, curvature = norm(gradient) ** 2, norm(linear(gradient)) ** 2
        best = torch.where(curvature > 0, length / torch.where(curvature > 0, curvature, 1), 0)
        return x + zeta * over_items(best, x) * gradient
