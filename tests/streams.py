"""Streams of random numbers for tests of loops: many rows from one generator, and noise that is written down."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invdiff.random import Streams

__all__ = ["Fast", "Scripted"]


class Fast(Streams):
    """Streams of many rows from one generator: as random, without a generator for each."""

    def __init__(self, rows: int, seed: int = 0) -> None:
        self.rows, self.shared = rows, torch.Generator().manual_seed(seed)

    def normal(self, event: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(self.rows, *event, generator=self.shared, dtype=dtype)


class Scripted(Streams):
    """Streams that give what is written down, whatever is asked for, and keep what they gave."""

    def __init__(self, noise: Sequence[Tensor]) -> None:
        self.noise = list(noise)

    def normal(self, event: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.noise.pop(0)
