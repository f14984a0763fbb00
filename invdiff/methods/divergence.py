"""Detection of diverging states, and the error that reports them."""

from __future__ import annotations

import math

from torch import Tensor

from invdiff.linalg import norm

__all__ = ["EXPLOSION", "DivergenceError", "check_bounds", "lost"]

# A state this many times larger than the noise plus data of order one is diverging.
EXPLOSION = 1e4


class DivergenceError(RuntimeError):
    """A sample diverged, and weaker guidance did not prevent it.

    Attributes:
        step: Step at which it happened, counted from 1.
        row: Row of the batch.
    """

    def __init__(self, message: str, *, step: int, row: int) -> None:
        super().__init__(message)
        self.step, self.row = step, row


def check_bounds(x: Tensor, *, bound: float, step: int) -> None:
    """Raise a :class:`DivergenceError` for the first row of ``x`` that :func:`lost` reports."""
    gone = lost(x, bound)
    if gone.any():
        row = int(gone.nonzero()[0])
        raise DivergenceError(f"diverged at step {step}, row {row}", step=step, row=row)


def lost(x: Tensor, bound: float) -> Tensor:
    """Return which items are not finite, or whose root mean square is not below ``bound``, ``(B,)``."""
    return ~(norm(x) < bound * math.sqrt(x[0].numel()))
