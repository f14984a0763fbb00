"""Detection of diverging states, and the error that reports them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.linalg import norm

__all__ = ["EXPLOSION", "INTERVAL", "BoundsCheck", "DivergenceError", "check_bounds", "lost"]

# A state this many times larger than the noise plus data of order one is diverging.
EXPLOSION = 1e4
INTERVAL = 8  # states of a GPU between two looks at whether one of them diverged


class DivergenceError(RuntimeError):
    """A sample diverged, and weaker guidance did not prevent it.

    Attributes:
        step: Step at which it happened, counted from 1.
        row: Row of the batch.
    """

    def __init__(self, message: str, *, step: int, row: int) -> None:
        super().__init__(message)
        self.step, self.row = step, row


class BoundsCheck:
    """Checks the states of a run, and raises a :class:`DivergenceError` for the first one that diverged.

    To look at the result of a check, the CPU waits until a GPU has done all its work. So the results stay on the GPU, and are
    looked at together after every :data:`INTERVAL` states and at the end. On a CPU every state is looked at when it is made.
    The error names the same step and row in both cases.

    Args:
        device: Device of the states.
    """

    def __init__(self, device: torch.device) -> None:
        self.interval = 1 if device.type == "cpu" else INTERVAL
        self._steps: list[int] = []
        self._gone: list[Tensor] = []

    def __call__(self, x: Tensor, *, bound: float, step: int) -> None:
        """Check the state ``x`` after a step."""
        self._steps.append(step)
        self._gone.append(lost(x, bound))
        if len(self._gone) == self.interval:
            self.finish()

    def finish(self) -> None:
        """Look at the states that have not been looked at. To be called after the last one."""
        steps, gone, self._steps, self._gone = self._steps, self._gone, [], []
        if gone and (found := torch.stack(gone)).any():
            index, row = found.nonzero()[0].tolist()
            raise DivergenceError(f"diverged at step {steps[index]}, row {row}", step=steps[index], row=row)


def check_bounds(x: Tensor, *, bound: float, step: int) -> None:
    """Raise a :class:`DivergenceError` for the first row of ``x`` that :func:`lost` reports."""
    check = BoundsCheck(x.device)
    check(x, bound=bound, step=step)
    check.finish()


def lost(x: Tensor, bound: float) -> Tensor:
    """Return which items are not finite, or whose root mean square is not below ``bound``, ``(B,)``."""
    return ~(norm(x) < bound * math.sqrt(x[0].numel()))
