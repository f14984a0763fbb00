"""The probability-flow ODE from a noisy state to a clean one, as a stand-in for a draw or a consistency model."""

from __future__ import annotations

import itertools

from torch import Tensor

from invdiff.methods.likelihood_steps import times_below
from invdiff.priors import ScoreModel

__all__ = ["follow_flow"]


def follow_flow(score: ScoreModel, x_t: Tensor, t: Tensor, steps: int) -> Tensor:
    r"""Solve :math:`dz / d\varsigma = (z - \hat x_0) / \varsigma` from ``x_t`` to zero noise, :math:`z = x / \alpha`.

    Args:
        score: The prior.
        x_t: The state, ``(B, *event)``.
        t: Its time.
        steps: Euler steps, at least 1, at the times of :func:`~invdiff.methods.likelihood_steps.times_below`. With one step
            the result is :math:`\hat x_0`.
    """
    schedule = score.schedule
    z = x_t / float(schedule(t)[0])
    for u, v in itertools.pairwise(times_below(schedule, t, steps)):
        ratio_u, ratio_v = float(schedule.ratio(u)), float(schedule.ratio(v))
        x0_hat = score.denoise(float(schedule(u)[0]) * z, u)
        z = x0_hat + ratio_v / ratio_u * (z - x0_hat)
    return z
