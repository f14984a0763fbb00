"""The product of a number and an operator."""

from __future__ import annotations

import math

from torch import Tensor

from ..core.operator import LinearOperator, Operator
from ..core.svd import SVD, SameBasisSVD
from .combination import Combination, Part, name_in_formula, scaled_noise
from .per_item import PerItem, distribute

__all__ = ["LinearScaled", "NonlinearScaled", "Scaled", "ScaledSVD", "scale"]


def scale(op: Operator, factor: float) -> Operator:
    r"""Return the measurement :math:`y = c\, (A(x) + n)`, with scaled noise. Same as ``factor * op``.

    Args:
        op: :math:`A`.
        factor: :math:`c`, not zero.

    Raises:
        ValueError: If ``factor`` is zero or not finite, or if the noise is not independent Gaussian.
    """
    if not math.isfinite(factor) or factor == 0:
        raise ValueError(f"{type(op).__name__}: the factor must be a finite number other than 0, got {factor}.")
    if isinstance(op, PerItem):
        return distribute(lambda part: scale(part, factor), op)
    if isinstance(op, Scaled):
        whole = scale(op.op, factor * op.factor)
        whole.noise = scaled_noise(op.noise, factor)
        return whole
    return LinearScaled(op, factor) if isinstance(op, LinearOperator) else NonlinearScaled(op, factor)


class Scaled(Combination[Part]):
    r"""The product of a number and an operator. See :func:`scale`.

    Args:
        op: :math:`A`.
        factor: :math:`c`.
    """

    def __init__(self, op: Part, factor: float) -> None:
        super().__init__([op], op.in_shape, op.out_shape, scaled_noise(op.noise, factor))
        self.factor = factor

    @property
    def op(self) -> Part:
        return self.parts[0]

    @property
    def dof(self) -> int | Tensor:
        return self.op.dof

    @property
    def formula(self) -> str:
        return f"{self.factor:g} * {name_in_formula(self.op)}"

    def keep_measured(self, y: Tensor) -> Tensor:
        return self.op.keep_measured(y)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.op.forward(x)


class NonlinearScaled(Scaled[Operator]):
    r"""A nonlinear :class:`Scaled`."""

    def jacobian(self, x: Tensor) -> LinearOperator:
        return LinearScaled(self.op.jacobian(x), self.factor)


class LinearScaled(LinearOperator, Scaled[LinearOperator]):
    r"""A linear :class:`Scaled`, with all closed forms of :math:`A`:

    .. math:: (c^2 A A^\top + \lambda I)^{-1} = (A A^\top + \lambda / c^2)^{-1} / c^2, \qquad (c A)^+ = A^+ / c

    Args:
        op: :math:`A`.
        factor: :math:`c`.
    """

    def __init__(self, op: LinearOperator, factor: float) -> None:
        super().__init__(op, factor)
        self.closed_form = op.closed_form
        self.gram_scale = None if op.gram_scale is None else factor**2 * op.gram_scale

    def adjoint(self, y: Tensor) -> Tensor:
        return self.factor * self.op.adjoint(y)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self.op.solve(v, lam / self.factor**2) / self.factor**2

    def pinv(self, y: Tensor) -> Tensor:
        return self.op.pinv(y) / self.factor

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self.op.precondition(v, lam / self.factor**2) / self.factor**2

    def _decompose(self) -> SVD | None:
        return None if self.op.svd is None else ScaledSVD(self.op.svd, self.factor)


class ScaledSVD(SameBasisSVD):
    r"""SVD of :math:`c A`, from :math:`A = U S V^\top`: :math:`\operatorname{sign}(c)\, U`, :math:`|c|\, S` and :math:`V`.

    Args:
        svd: The SVD of :math:`A`.
        factor: :math:`c`.
    """

    def __init__(self, svd: SVD, factor: float) -> None:
        super().__init__(svd, abs(factor) * svd._values)
        self.sign = math.copysign(1.0, factor)

    def _rotate(self, y: Tensor) -> Tensor:
        return self.sign * self.svd._rotate(y)
