"""Estimate of the duration of a run, from the time of a short run and the number of steps."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from invdiff.posterior import PosteriorSampler
from invdiff.posterior.misfit import unwarned

__all__ = ["duration", "estimate"]


def estimate(sampler: PosteriorSampler, y: Tensor, samples: int) -> float:
    """Estimate the duration of ``sampler.run(y, num_samples=samples)`` in seconds.

    A run with one sample and only the first and the last step is timed. In a batch, each sample takes slightly less time.

    Args:
        sampler: The sampler.
        y: The measurement, ``(1, *op.out_shape)``.
        samples: Number of samples.
    """
    steps = sampler.plan(samples).steps
    short = sampler.shortened(2)
    seconds = []
    for _ in range(2):  # The first call of a network is slower than the following ones.
        started = time.perf_counter()
        with unwarned():  # two steps are far too few
            short.run(y, num_samples=1, seed=0)
        if y.is_cuda:
            torch.cuda.synchronize(y.device)
        seconds.append(time.perf_counter() - started)
    return min(seconds) / 2 * steps * samples


def duration(seconds: float) -> str:
    """Format a duration to two significant digits: ``8 seconds``, ``3.5 minutes``, ``2 hours``."""
    for unit, size in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 1.5 * size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    whole = max(1, round(seconds))
    return f"{whole} second{'s' if whole != 1 else ''}"
