"""The reverse-diffusion loop that serves every guidance and every step rule."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from invdiff.linalg import over_items
from invdiff.methods.guidance.base import Guidance, StepRule
from invdiff.methods.samplers.base import EXPLOSION, check_bounds, lost
from invdiff.random import Draws, Streams

__all__ = ["reverse_diffusion"]

BACK_OFF = (0.5, 0.25, 0.125)


@torch.no_grad()
def reverse_diffusion(
    guidance: Guidance,
    times: Tensor,
    *,
    rule: StepRule | None,
    streams: Streams,
    on_step: Callable[[], object] | None = None,
) -> Tensor:
    r"""Draw :math:`x_T \sim \mathcal{N}(0, \sigma_T^2 I)` for every row of ``guidance.y`` and carry it down ``times``.

    An item whose state is not finite after a step, or whose root mean square exceeds ``1e4 (1 + sigma_s)``, takes that step
    again with the guidance at a half, a quarter and an eighth of its strength, from the same state and with the same noise.

    Args:
        guidance: What is followed; holds ``y``, one row per sample.
        times: Decreasing, ``(steps + 1,)``, the last one noise-free.
        rule: The step rule; ``None`` for the guidance's own step.
        streams: One random stream per row.
        on_step: Called after every step.

    Returns:
        Samples ``(B, *event)``.

    Raises:
        DivergenceError: If an item diverges at every strength.
    """
    score, dtype = guidance.score, guidance.y.dtype
    x_t = guidance.start(times[0], Draws(streams, dtype))
    for step, (t, s) in enumerate(itertools.pairwise(times)):
        draw = Draws(streams, dtype)
        bound = EXPLOSION * (1 + float(score.schedule(s)[1]))
        x_s = guidance.advance(rule, x_t, t, s, draw)
        for strength in BACK_OFF:
            gone = lost(x_s, bound)
            if not gone.any():
                break
            retried = guidance.advance(rule, x_t, t, s, draw.again(), strength=strength)
            x_s = torch.where(over_items(gone, x_s), retried, x_s)
        check_bounds(x_s, bound=bound, step=step + 1)
        x_t = x_s
        if on_step is not None:
            on_step()
    return x_t
