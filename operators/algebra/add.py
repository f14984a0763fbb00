"""The sum of operators."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from ..core.operator import LinearOperator, Operator
from .combination import Combination, Part, noise_of_sum
from .per_item import PerItem, distribute

__all__ = ["LinearSum", "NonlinearSum", "Sum", "add"]


def add(left: Operator, right: Operator) -> Operator:
    r"""Return the sum :math:`y = A(x) + n_A + B(x) + n_B`; linear if both are. Same as ``left + right``.

    Args:
        left: :math:`A`.
        right: :math:`B`, with the same shapes.

    Raises:
        ValueError: If the shapes differ, or the noise of the sum is not Gaussian or not known.
    """
    for side in ("in_shape", "out_shape"):
        if getattr(left, side) != getattr(right, side):
            raise ValueError(
                f"{type(left).__name__} + {type(right).__name__}: both must have the same {side}, "
                f"got {getattr(left, side)} and {getattr(right, side)}."
            )
    if isinstance(left, PerItem) or isinstance(right, PerItem):
        return distribute(add, left, right)
    terms = [left, right]
    linear = [term for term in terms if isinstance(term, LinearOperator)]
    return LinearSum(linear) if len(linear) == len(terms) else NonlinearSum(terms)


class Sum(Combination[Part]):
    """The sum of operators. See :func:`add`.

    Args:
        terms: The operators, all with the same shapes.
    """

    def __init__(self, terms: Sequence[Part]) -> None:
        super().__init__(terms, terms[0].in_shape, terms[0].out_shape, noise_of_sum(terms))

    @property
    def formula(self) -> str:
        return self._names(" + ")

    def forward(self, x: Tensor) -> Tensor:
        return reduce(torch.add, (term.forward(x) for term in self.parts))


class NonlinearSum(Sum[Operator]):
    """A :class:`Sum` with at least one nonlinear term."""

    def jacobian(self, x: Tensor) -> LinearOperator:
        return LinearSum([term.jacobian(x) for term in self.parts])


class LinearSum(LinearOperator, Sum[LinearOperator]):
    """A linear :class:`Sum`. It has no closed form: ``solve`` uses eigenvectors if it is small, else it is iterative.

    Args:
        terms: The operators, all with the same shapes.
    """

    def adjoint(self, y: Tensor) -> Tensor:
        return reduce(torch.add, (term.adjoint(y) for term in self.parts))
