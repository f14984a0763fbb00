"""Random numbers that belong to an item, not to the batch it happens to run in.

Every posterior sample has a generator of its own, seeded by ``(seed, purpose, item, sample)``. What it draws does not
depend on batch mates, on the chunk size, on the order of work, or on a resumed run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["Draw", "Draws", "Streams", "generator"]

PURPOSES = ("sample", "measure", "prior", "resample", "diagnose")
Draw = Callable[[Sequence[int]], Tensor]  # event -> standard normal noise (rows, *event), the next of every row
BLOCK = 4096  # Numbers drawn at once; small events share a call, large ones have calls of their own. Fixes the samples.


def generator(seed: int, purpose: str, item: int, sample: int, *, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of one sample of one item.

    Args:
        seed: Any non-negative integer; 0 is a seed like any other.
        purpose: One of ``PURPOSES``, so that the noise of a measurement and that of a sampler run with the same seed differ.
        item: Index of the measurement in the batch.
        sample: Index of the sample of that measurement.
        device: Where the numbers are drawn.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer, got {seed!r}.")
    if purpose not in PURPOSES:
        raise ValueError(f"generator: unknown purpose {purpose!r}, expected one of {', '.join(PURPOSES)}.")
    key = np.random.SeedSequence(int(seed), spawn_key=(PURPOSES.index(purpose), item))
    # On a CPU only the low 32 bits of a seed count: drawn at random they would collide once in 2^32 pairs, and a sample
    # would come twice. Steps by an odd number never do.
    state = int(key.generate_state(1, np.uint64)[0]) + sample * 0x9E3779B97F4A7C15
    return torch.Generator(device).manual_seed(state % 2**63)


class Streams:
    """One generator for each row of a batch: ``streams.normal(shape)`` draws the next noise of every row.

    What a row draws depends on its generator and on the order of the calls alone; shapes and dtypes may alternate.

    Args:
        generators: One per row.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = list(generators)
        self._ahead: dict[tuple[torch.Size, torch.dtype], Tensor] = {}  # (rows, draws, *event): noise for the coming calls

    def normal(self, event: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return standard normal noise of shape ``(rows, *event)``, the next of each row's stream."""
        key = torch.Size(event), dtype
        ahead = self._ahead.get(key)
        if ahead is None or ahead.shape[1] == 0:
            draws = max(1, BLOCK // max(1, key[0].numel()))
            device = self.generators[0].device
            ahead = torch.stack([torch.randn(draws, *event, generator=g, dtype=dtype, device=device) for g in self.generators])
        noise, self._ahead[key] = ahead[:, 0], ahead[:, 1:]
        return noise


class Draws:
    """The noise of one step, which can be had again: a step that is repeated sees the same noise.

    Args:
        streams: Where new noise comes from.
        dtype: Its dtype.
    """

    def __init__(self, streams: Streams, dtype: torch.dtype) -> None:
        self.streams, self.dtype = streams, dtype
        self.taken: list[Tensor] = []
        self.position = 0

    def __call__(self, event: Sequence[int]) -> Tensor:
        """Return the next standard normal noise, ``(rows, *event)``."""
        if self.position == len(self.taken):
            self.taken.append(self.streams.normal(event, dtype=self.dtype))
        self.position += 1
        return self.taken[self.position - 1]

    def again(self) -> Draw:
        """Return to the beginning of the step."""
        self.position = 0
        return self
