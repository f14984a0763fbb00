"""What ``@``, ``+``, ``*`` and ``.T`` of an operator call.

The functions belong to :mod:`invdiff.operators.algebra`, which builds on the operators and puts them here when it is imported:
so the interface of operators imports nothing that is built on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .operator import LinearOperator, Operator

__all__ = ["Algebra", "algebra", "install"]


@dataclass(frozen=True)
class Algebra:
    r"""The ways to make operators of operators.

    Attributes:
        compose: :math:`x \mapsto A(B(x))` from ``(A, B)``.
        add: :math:`x \mapsto A(x) + B(x)` from ``(A, B)``.
        scale: :math:`x \mapsto c\, A(x)` from ``(A, c)``.
        transpose: :math:`y \mapsto A^\top y`.
    """

    compose: Callable[[Operator, Operator], Operator]
    add: Callable[[Operator, Operator], Operator]
    scale: Callable[[Operator, float], Operator]
    transpose: Callable[[LinearOperator], LinearOperator]


_installed: list[Algebra] = []


def install(algebra: Algebra) -> None:
    """Let operators be combined by ``algebra`` from now on."""
    _installed[:] = [algebra]


def algebra() -> Algebra:
    """Return what operators are combined by."""
    return _installed[0]
