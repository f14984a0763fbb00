"""The functions behind ``@``, ``+``, ``*`` and ``.T`` of operators.

They are defined in :mod:`invdiff.operators.algebra`, which depends on the operator classes and registers them here when it is
imported. This avoids a circular import.
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
    r"""The functions that combine operators.

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
    """Combine operators with ``algebra`` from now on."""
    _installed[:] = [algebra]


def algebra() -> Algebra:
    """Return the installed functions."""
    return _installed[0]
