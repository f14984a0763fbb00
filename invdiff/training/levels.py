"""Laws of the noise levels of training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.training.settings import Settings

__all__ = ["LEVELS", "log_uniform", "noise_levels", "state_levels"]

LEVELS = (0.002, 80.0)  # the range of noise levels a prior has to know
STATES = (0.01, 15.0)  # what most steps of a sampler see
HIGH = (1.0, 80.0)  # where large structures are decided
LATE_SHARE = 0.2  # of the levels of late, larger crops that are drawn from there


def noise_levels(settings: Settings, count: int, generator: torch.Generator, *, late: bool = False) -> Tensor:
    """Draw levels of white noise, each from 0.002 to 80: log-normal, and some evenly over the logarithms."""
    low, high = math.log(LEVELS[0]), math.log(LEVELS[1])
    normal = settings.log_sigma_mean + settings.log_sigma_std * torch.randn(count, generator=generator)
    even, which = torch.rand(2, count, generator=generator)
    levels = torch.where(which < settings.uniform, low + (high - low) * even, normal.clamp(low, high)).exp()
    return _with_high(levels, generator) if late else levels


def state_levels(count: int, generator: torch.Generator, *, late: bool = False) -> Tensor:
    """Draw levels of the noisy state of a sampler, evenly over the logarithms: 88 % from 0.01 to 15, the others up to 80."""
    most, rest = log_uniform(count, *STATES, generator), log_uniform(count, STATES[1], LEVELS[1], generator)
    levels = torch.where(torch.rand(count, generator=generator) < 0.88, most, rest)
    return _with_high(levels, generator) if late else levels


def log_uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw numbers whose logarithms are spread evenly."""
    return low * (high / low) ** torch.rand(count, generator=generator)


def _with_high(levels: Tensor, generator: torch.Generator) -> Tensor:
    which = torch.rand(len(levels), generator=generator) < LATE_SHARE
    return torch.where(which, log_uniform(len(levels), *HIGH, generator), levels)
