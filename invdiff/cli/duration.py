"""How long a run will take, told before it begins: one call of the network is timed, and the calls are counted."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from invdiff.posterior import PosteriorSampler

__all__ = ["duration", "estimate"]


def estimate(sampler: PosteriorSampler, y: Tensor, samples: int) -> float:
    """Return about how many seconds ``sampler.run(y, num_samples=samples)`` will take.

    A run of the first step and the last, of one sample, is timed; several samples at once are a little faster each.

    Args:
        sampler: What will run.
        y: The measurement, ``(1, *op.out_shape)``.
        samples: How many.
    """
    steps = sampler.plan(samples).steps
    short = sampler.shortened(2)
    seconds = []
    for _ in range(2):  # The first call of a network is slower than any other.
        started = time.perf_counter()
        short.run(y, num_samples=1, seed=0)
        if y.is_cuda:
            torch.cuda.synchronize(y.device)
        seconds.append(time.perf_counter() - started)
    return min(seconds) / 2 * steps * samples


def duration(seconds: float) -> str:
    """Return seconds in words, to two figures: ``8 seconds``, ``3.5 minutes``, ``2 hours``."""
    for unit, size in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 1.5 * size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    whole = max(1, round(seconds))
    return f"{whole} second{'s' if whole != 1 else ''}"
