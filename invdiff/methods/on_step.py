"""The callback of a loop, called after each of its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

__all__ = ["OnStep"]


class OnStep(Protocol):
    """Called once after each step of a loop."""

    def __call__(self, x_s: Tensor | Callable[[], Tensor], estimate: Tensor | None, /) -> object:
        r"""Receive the state and the estimate of a step.

        Args:
            x_s: The state after the step, ``(B, *event)``, or a function that computes it on demand. After the last step it is
                the sample.
            estimate: The estimate of :math:`x_0` used in the step, ``(B, *event)``, or ``None``.
        """
        ...
