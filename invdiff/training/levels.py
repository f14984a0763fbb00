"""Distributions of the noise levels in training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.training.settings import Settings

__all__ = ["LEVELS", "log_uniform", "noise_levels", "state_levels"]

LEVELS = (0.002, 80.0)  # range of noise levels that a prior is trained for
STATES = (0.01, 15.0)  # range of most steps of a sampler
HIGH = (1.0, 80.0)  # range in which large structures are determined
LATE_SHARE = 0.2  # share of the levels drawn from HIGH for the larger crops of the last third


def noise_levels(settings: Settings, count: int, generator: torch.Generator, *, late: bool = False) -> Tensor:
    """Draw levels of white noise in [0.002, 80]: log-normal, or log-uniform for the share ``settings.uniform``."""
    low, high = math.log(LEVELS[0]), math.log(LEVELS[1])
    normal = settings.log_sigma_mean + settings.log_sigma_std * torch.randn(count, generator=generator)
    even, which = torch.rand(2, count, generator=generator)
    levels = torch.where(which < settings.uniform, low + (high - low) * even, normal.clamp(low, high)).exp()
    return _with_high(levels, generator) if late else levels


def state_levels(count: int, generator: torch.Generator, *, late: bool = False) -> Tensor:
    """Draw noise levels of the state of a sampler, log-uniform: 88 % from 0.01 to 15, the others from 15 to 80."""
    most, rest = log_uniform(count, *STATES, generator), log_uniform(count, STATES[1], LEVELS[1], generator)
    levels = torch.where(torch.rand(count, generator=generator) < 0.88, most, rest)
    return _with_high(levels, generator) if late else levels


def log_uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw log-uniform values from ``low`` to ``high``."""
    return low * (high / low) ** torch.rand(count, generator=generator)


def _with_high(levels: Tensor, generator: torch.Generator) -> Tensor:
    which = torch.rand(len(levels), generator=generator) < LATE_SHARE
    return torch.where(which, log_uniform(len(levels), *HIGH, generator), levels)
