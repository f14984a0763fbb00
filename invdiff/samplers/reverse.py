"""The reverse-diffusion loop that serves every guidance and every step rule."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from invdiff.guidance.base import Guidance, StepRule
from invdiff.random import Streams

__all__ = ["DivergenceError", "reverse_diffusion"]

# A state this many times larger than noise plus data of order one is on its way to infinity.
EXPLOSION = 1e4
BACK_OFF = (0.5, 0.25, 0.125)


class DivergenceError(RuntimeError):
    """A sample left all bounds, and weaker guidance did not bring it back.

    Attributes:
        step: Step at which it happened, counted from 1.
        row: Row of the batch.
    """

    def __init__(self, message: str, *, step: int, row: int) -> None:
        super().__init__(message)
        self.step, self.row = step, row


@torch.no_grad()
def reverse_diffusion(
    guidance: Guidance,
    times: Tensor,
    *,
    rule: StepRule,
    streams: Streams,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    r"""Draw :math:`x_T \sim \mathcal{N}(0, \sigma_T^2 I)` for every row of ``guidance.y`` and carry it down ``times``.

    An item whose state is not finite after a step, or whose root mean square exceeds ``1e4 (1 + sigma_s)``, takes that step
    again with the guidance at a half, a quarter and an eighth of its strength, from the same state and with the same noise.

    Args:
        guidance: What is followed; holds ``y``, one row per sample.
        times: Decreasing, ``(steps + 1,)``, the last one noise-free.
        rule: The step rule.
        streams: One random stream per row.
        on_step: Called after every step.

    Returns:
        Samples ``(B, *event)``.

    Raises:
        DivergenceError: If an item diverges at every strength.
    """
    score, y = guidance.score, guidance.y
    event, dtype = guidance.op.in_shape, y.dtype
    x_t = float(score.schedule(times[0])[1]) * streams.normal(event, dtype=dtype)
    for step, (t, s) in enumerate(itertools.pairwise(times)):
        noise = streams.normal(event, dtype=dtype)
        bound = EXPLOSION * (1 + float(score.schedule(s)[1]))
        x_s = guidance.advance(rule, x_t, t, s, noise)
        for strength in BACK_OFF:
            lost = _lost(x_s, bound)
            if not lost.any():
                break
            retried = guidance.advance(rule, x_t, t, s, noise, strength=strength)
            x_s = torch.where(lost.reshape(-1, *(1,) * len(event)), retried, x_s)
        lost = _lost(x_s, bound)
        if lost.any():
            row = int(lost.nonzero()[0])
            raise DivergenceError(f"diverged at step {step + 1} of {len(times) - 1}, row {row}", step=step + 1, row=row)
        x_t = x_s
        if on_step is not None:
            on_step()
    return x_t


def _lost(x: Tensor, bound: float) -> Tensor:
    """Return which items are not finite or too large, ``(B,)``."""
    size = x.flatten(1).square().mean(1).sqrt()
    return ~(size < bound)
