"""Random choices that are part of an operator: drawn once, from a seed, when it is built."""

from __future__ import annotations

import operator

import torch

__all__ = ["seeded"]


def seeded(owner: str, seed: int) -> torch.Generator:
    """Return a generator with this seed, on the CPU, so that the draws are the same on every device."""
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"{owner}: seed must be an integer, got {seed!r}.") from None
    if not 0 <= number < 2**63:
        raise ValueError(f"{owner}: seed must be a non-negative integer below 2^63, got {number}.")
    return torch.Generator().manual_seed(number)
