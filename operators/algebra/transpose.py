"""The transpose of a linear operator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.noise import GaussianNoise
from ..core.operator import LinearOperator
from .combination import name_in_formula, weight_for

__all__ = ["Adjoint"]


class Adjoint(LinearOperator):
    r"""The transpose :math:`A^\top`, from measurements to images, without noise. ``A.T`` returns it.

    .. math:: (A^\top A + \lambda I)^{-1} v = \tfrac1\lambda \left( v - A^\top (A A^\top + \lambda I)^{-1} A v \right),
        \qquad (A^\top A)^+ = A^+ (A A^\top)^+ A

    if :math:`A` has a closed form; otherwise ``solve`` is iterative. The difference loses digits where :math:`\lambda` is
    small compared to :math:`\|A\|^2`. One step of iterative refinement restores them: the relative error is then the square
    of :math:`\epsilon \|A\|^2 / \lambda`, with the machine epsilon :math:`\epsilon` of the dtype.

    Args:
        op: :math:`A`.
    """

    def __init__(self, op: LinearOperator) -> None:
        self.op, self.in_shape, self.out_shape = op, op.out_shape, op.in_shape
        self.noise, self.device, self.dtype = GaussianNoise(0.0), op.device, op.dtype
        self.closed_form, self.surrogate = op.closed_form, op.surrogate
        # If A is square with A A^T = c I, then also A^T A = c I.
        square = op.complete and torch.Size(op.out_shape).numel() == torch.Size(op.in_shape).numel()
        self.gram_scale = op.gram_scale if square else None

    @property
    def T(self) -> LinearOperator:  # noqa: N802
        return self.op

    def _summary(self) -> Sequence[str]:
        return (f"of {name_in_formula(self.op)}",)

    def forward(self, x: Tensor) -> Tensor:
        return self.op.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.op.forward(y)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        if not self.closed_form:
            return super().solve(v, lam)
        # Of a number, the CPU knows the sign without waiting for a GPU.
        positive = lam > 0
        some, every = torch.stack([positive.any(), positive.all()]).tolist() if isinstance(positive, Tensor) else [positive] * 2
        lam = torch.as_tensor(lam, dtype=v.dtype, device=v.device)
        shift = torch.where(lam > 0, lam, 1)
        solved = torch.zeros_like(v)
        if some:
            solved = self._solve_shifted(v, shift)
            solved = solved + self._solve_shifted(v - self.forward(self.adjoint(solved)) - shift * solved, shift)
        if every:
            return solved
        return torch.where(lam > 0, solved, self.op.pinv(self.op.solve(self.op.forward(v), 0.0)))

    def _solve_shifted(self, v: Tensor, lam: Tensor) -> Tensor:
        return (v - self.op.adjoint(self.op.solve(self.op.forward(v), weight_for(self.op, lam)))) / lam
