"""Unconditional samples of the prior."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from invdiff.methods.denoised import Denoised, prior_mean
from invdiff.methods.steps.heun import Heun
from invdiff.methods.steps.rule import StepRule
from invdiff.priors import ScoreModel
from invdiff.random import Streams, generator
from invdiff.schedules import time_grid
from invdiff.trial import in_own_modes

__all__ = ["sample_prior"]


@in_own_modes()
@torch.no_grad()
def sample_prior(
    score: ScoreModel,
    shape: Sequence[int],
    num_samples: int,
    *,
    seed: int,
    steps: int = 50,
    rule: StepRule | None = None,
    spacing: str = "log-snr",
    ratio_max: float | None = None,
    ratio_min: float | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    r"""Draw from :math:`p(x)` by the reverse diffusion.

    Args:
        score: The prior.
        shape: Shape of one sample.
        num_samples: Number of samples. Each has its own random stream, ``(seed, sample)``.
        seed: Random seed, a non-negative integer.
        steps: Steps of the reverse diffusion.
        rule: Step rule. Default: Heun.
        spacing: One of :data:`invdiff.schedules.SPACINGS`.
        ratio_max: Noise-to-signal ratio to start from. Default: :meth:`~invdiff.priors.ScoreModel.largest_ratio` of the prior.
        ratio_min: Noise-to-signal ratio of the last evaluation. Default: the schedule's smallest.
        device: Device to compute on.

    Returns:
        Samples ``(num_samples, *shape)``, float32.
    """
    score, rule = score.to(device), rule or Heun()
    ratio_max = score.largest_ratio() if ratio_max is None else ratio_max
    times = time_grid(score.schedule, steps, spacing=spacing, ratio_min=ratio_min, ratio_max=ratio_max)
    streams = Streams([generator(seed, "prior", 0, sample, device=device) for sample in range(num_samples)])
    x_t = float(score.schedule(times[0])[1]) * streams.normal(shape)
    for t, s in itertools.pairwise(times):
        x_t = rule(prior_mean, Denoised(score, x_t, t), s, streams.normal(shape))
    return x_t
