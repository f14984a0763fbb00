"""Random choices that belong to an instrument: made once, from a seed, when the operator is built."""

from __future__ import annotations

import operator

import torch

__all__ = ["seeded"]


def seeded(owner: str, seed: int) -> torch.Generator:
    """Return the generator of ``seed``, on the CPU: the same choices on every device."""
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"{owner}: seed must be an integer, got {seed!r}.") from None
    if not 0 <= number < 2**63:
        raise ValueError(f"{owner}: seed must be a non-negative integer below 2^63, got {number}.")
    return torch.Generator().manual_seed(number)
