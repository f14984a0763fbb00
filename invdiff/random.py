"""Random numbers that depend on the item and the sample, not on the batch.

Every posterior sample has its own generator, seeded by ``(seed, purpose, item, sample)``. Its random numbers do not depend on
the other items of the batch, the chunk size, the order of computation, or on whether a run was resumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["Draw", "Draws", "PlacedNoise", "SharedNoise", "Streams", "generator"]

PURPOSES = ("sample", "measure", "prior", "resample", "diagnose")
Draw = Callable[[Sequence[int]], Tensor]  # event -> the next standard normal noise of every row, (rows, *event)
BLOCK = 4096  # Values drawn at once: small events share a call, large ones have their own. Determines the samples.
CELL = 32  # Side of the squares of pixels that :class:`PlacedNoise` draws one by one. Determines the samples.


def generator(seed: int, purpose: str, item: int, sample: int, *, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of one sample of one item.

    Args:
        seed: Random seed, any non-negative integer, including 0.
        purpose: One of ``PURPOSES``, so that a measurement and a sampler with the same seed get different noise.
        item: Index of the measurement in the batch.
        sample: Index of the sample of that measurement.
        device: Device on which the numbers are drawn.
    """
    _check_seed(seed)
    if purpose not in PURPOSES:
        raise ValueError(f"generator: unknown purpose {purpose!r}, expected one of {', '.join(PURPOSES)}.")
    key = np.random.SeedSequence(int(seed), spawn_key=(PURPOSES.index(purpose), item))
    # On a CPU only the low 32 bits of a seed count. Drawn at random, they would collide once in 2^32 pairs and repeat a
    # sample; steps by an odd number never collide.
    state = int(key.generate_state(1, np.uint64)[0]) + sample * 0x9E3779B97F4A7C15
    return torch.Generator(device).manual_seed(state % 2**63)


class PlacedNoise:
    """The noise of one sample of an image, at fixed places: a window gets the noise that the whole image has there.

    The image is divided into squares of 32 x 32 pixels, counted from its top left corner. The noise of a square depends on the
    seed, the item, the sample, the number of the draw and the position of the square only, by a counter-based generator; so any
    window is drawn without the rest of the image, on every device with the same result.

    Args:
        seed: Random seed, any non-negative integer, including 0.
        item: Index of the measurement in the batch.
        sample: Index of the sample of that measurement.
        corner: Top row and left column of the window.
        sides: Height and width of the window. Noise whose last two axes have these lengths belongs to its pixels; other noise
            depends on the number of the draw only.
        device: Device of the noise.

    References:
        Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011, https://doi.org/10.1145/2063384.2063405
    """

    def __init__(
        self,
        seed: int,
        item: int,
        sample: int,
        *,
        corner: tuple[int, int] = (0, 0),
        sides: tuple[int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        _check_seed(seed)
        spawn = (PURPOSES.index("sample"), item, sample)
        self.key = np.random.SeedSequence(int(seed), spawn_key=spawn).generate_state(2, np.uint64)
        self.corner, self.sides, self.device = corner, sides, torch.device(device)
        self.draws = 0

    def normal(self, event: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the next standard normal noise of shape ``event``."""
        number, self.draws, shape = self.draws, self.draws + 1, tuple(event)
        if shape[-2:] != tuple(self.sides):
            return self._carry(self._drawn((number, 1, 0), shape, dtype))
        (top, left), (height, width) = self.corner, self.sides
        rows, columns = range(top // CELL, -(-(top + height) // CELL)), range(left // CELL, -(-(left + width) // CELL))
        words = CELL // 2 * _words(dtype)  # of a row of a square
        wide = np.empty((*shape[:-2], CELL * len(rows), len(columns), words), np.uint64)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                wide[..., CELL * i : CELL * (i + 1), j, :] = self._bits((number, 2 + row, column), (*shape[:-2], CELL, words))
        noise = _normals(wide, dtype).flatten(-2)
        top, left = top - CELL * rows[0], left - CELL * columns[0]
        return self._carry(noise[..., top : top + height, left : left + width])

    def _carry(self, noise: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return noise.to(self.device)
        return noise.contiguous().pin_memory().to(self.device, non_blocking=True)  # The CPU goes on to the next row.

    def _drawn(self, place: tuple[int, int, int], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        count = math.prod(shape)
        pairs = -(-count // 2)
        return _normals(self._bits(place, (pairs * _words(dtype),)), dtype)[:count].reshape(shape)

    def _bits(self, place: tuple[int, int, int], shape: tuple[int, ...]) -> np.ndarray:
        number, row, column = place
        # The lowest of the four words counts the numbers of one call.
        source = np.random.Philox(key=self.key, counter=np.array([0, column, row, number], np.uint64))
        return source.random_raw(math.prod(shape)).reshape(shape)


class SharedNoise:
    """The noise of one sample of a stack of slices, the same in every slice.

    Args:
        source: Source of the noise of one slice.
        shape: Shape of a stack. Noise of this shape is shared, and other noise is that of ``source``.
        axis: Axis of the slices in it.
    """

    def __init__(self, source: torch.Generator, shape: Sequence[int], axis: int) -> None:
        self.source, self.shape, self.axis = source, tuple(shape), axis

    def normal(self, event: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the next standard normal noise of shape ``event``."""
        event = tuple(event)
        drawn = (*event[: self.axis], 1, *event[self.axis + 1 :]) if event == self.shape else event
        noise = torch.randn(drawn, generator=self.source, dtype=dtype, device=self.source.device)
        return noise.expand(event).contiguous()


def _words(dtype: torch.dtype) -> int:
    """Return the words of 64 random bits that a pair of normal numbers takes."""
    return 2 if dtype == torch.float64 else 1


def _normals(bits: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Return two standard normal numbers for each one or two words of the last axis, by the transform of Box and Muller.

    They reach 6.6 standard deviations in float32, whose uniform numbers have 31 bits, and 8.6 in float64.
    """
    if dtype == torch.float64:
        radii, angles = np.split(bits >> np.uint64(11), 2, axis=-1)
        u, turn = (torch.from_numpy(part.astype(np.float64)) for part in (radii, angles))
        u, turn = u.add_(0.5).mul_(2**-53), turn.mul_(2 * math.pi * 2**-53)
    else:
        halves = torch.from_numpy(bits).view(torch.int32)
        u = (halves[..., ::2] & 0x7FFFFFFF).float().add_(0.5).mul_(2**-31)
        turn = halves[..., 1::2].float().mul_(2 * math.pi * 2**-32)
    radius = u.log_().mul_(-2).sqrt_()
    return torch.cat([turn.cos() * radius, turn.sin_() * radius], -1).to(dtype)


class Streams:
    """One source of noise for each row of a batch: ``streams.normal(shape)`` draws the next noise of every row.

    The noise of a row depends only on its source and on the order of the calls; shapes and dtypes may alternate.

    Args:
        sources: One per row: generators, the noise of places of an image, or noise that slices share.

    Attributes:
        generators: The sources that are generators.
    """

    def __init__(self, sources: Sequence[torch.Generator | PlacedNoise | SharedNoise]) -> None:
        self.sources = list(sources)
        self.generators = [source for source in sources if isinstance(source, torch.Generator)]
        self._ahead: dict[tuple[torch.Size, torch.dtype], Tensor] = {}  # (rows, draws, *event): noise for the coming calls

    def normal(self, event: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return standard normal noise of shape ``(rows, *event)``, the next of each row's stream."""
        key = torch.Size(event), dtype
        ahead = self._ahead.get(key)
        if ahead is None:
            draws = max(1, BLOCK // max(1, key[0].numel()))
            first, *others = (_next(source, draws, event, dtype) for source in self.sources)
            ahead = torch.stack([first, *others]) if others else first[None]
        self._ahead.pop(key, None)
        if ahead.shape[1] > 1:  # An empty rest would keep the memory of the noise that is returned.
            self._ahead[key] = ahead[:, 1:]
        return ahead[:, 0]


def _next(source: torch.Generator | PlacedNoise | SharedNoise, draws: int, event: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return the next noise of one source, ``(draws, *event)``; placed and shared noise come one draw at a time."""
    if isinstance(source, torch.Generator):
        return torch.randn(draws, *event, generator=source, dtype=dtype, device=source.device)
    return source.normal(event, dtype=dtype)[None]


class Draws:
    """The noise of one step, which keeps the first draw only: large ones are held no longer than they are needed.

    Args:
        streams: Source of the noise.
        dtype: Dtype of the noise.

    Attributes:
        first: The first draw, ``(rows, *event)``; ``None`` before it.
    """

    def __init__(self, streams: Streams, dtype: torch.dtype) -> None:
        self.streams, self.dtype = streams, dtype
        self.first: Tensor | None = None

    def __call__(self, event: Sequence[int]) -> Tensor:
        """Return the next standard normal noise, ``(rows, *event)``."""
        noise = self.streams.normal(event, dtype=self.dtype)
        self.first = noise if self.first is None else self.first
        return noise


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer, got {seed!r}.")
