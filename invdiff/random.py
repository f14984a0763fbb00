"""Random numbers that depend on the item and the sample, not on the batch.

Every posterior sample has its own generator, seeded by ``(seed, purpose, item, sample)``. Its random numbers do not depend on
the other items of the batch, the chunk size, the order of computation, or on whether a run was resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["Draw", "Draws", "Streams", "generator"]

PURPOSES = ("sample", "measure", "prior", "resample", "diagnose")
Draw = Callable[[Sequence[int]], Tensor]  # event -> the next standard normal noise of every row, (rows, *event)
BLOCK = 4096  # Values drawn at once: small events share a call, large ones have their own. Determines the samples.


def generator(seed: int, purpose: str, item: int, sample: int, *, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of one sample of one item.

    Args:
        seed: Random seed, any non-negative integer, including 0.
        purpose: One of ``PURPOSES``, so that a measurement and a sampler with the same seed get different noise.
        item: Index of the measurement in the batch.
        sample: Index of the sample of that measurement.
        device: Device on which the numbers are drawn.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer, got {seed!r}.")
    if purpose not in PURPOSES:
        raise ValueError(f"generator: unknown purpose {purpose!r}, expected one of {', '.join(PURPOSES)}.")
    key = np.random.SeedSequence(int(seed), spawn_key=(PURPOSES.index(purpose), item))
    # On a CPU only the low 32 bits of a seed count. Drawn at random, they would collide once in 2^32 pairs and repeat a
    # sample; steps by an odd number never collide.
    state = int(key.generate_state(1, np.uint64)[0]) + sample * 0x9E3779B97F4A7C15
    return torch.Generator(device).manual_seed(state % 2**63)


class Streams:
    """One generator for each row of a batch: ``streams.normal(shape)`` draws the next noise of every row.

    The noise of a row depends only on its generator and on the order of the calls; shapes and dtypes may alternate.

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
    """The noise of one step, which can be replayed: a repeated step gets the same noise.

    Args:
        streams: Source of new noise.
        dtype: Dtype of the noise.
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
        """Rewind to the beginning of the step and return the object itself."""
        self.position = 0
        return self
