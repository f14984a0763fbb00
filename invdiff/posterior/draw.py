"""Draw the samples of a run in chunks that fit in memory. Each row has its own random stream."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from invdiff.methods.divergence import DivergenceError
from invdiff.methods.guidance import Guidance
from invdiff.methods.on_step import OnStep
from invdiff.methods.particles import ParticleMethod
from invdiff.methods.particles.loop import Cloud, run_particles
from invdiff.methods.resolve import ResolvedMethod
from invdiff.methods.samplers import Sampler
from invdiff.methods.steps import reverse_diffusion
from invdiff.operators import Operator
from invdiff.posterior.counted import Counted
from invdiff.posterior.memory import halve_when_full, out_of_memory
from invdiff.posterior.step import Step
from invdiff.posterior.windows import Window
from invdiff.random import PlacedNoise, SharedNoise, Streams, generator

__all__ = ["CHUNK_NUMBERS", "Drawing", "chunk_size", "progress_bar"]

CHUNK_NUMBERS = {"cpu": 2**19, "cuda": 2**23}  # default number of entries of x per chunk
SMALLEST_EVENT = 64  # Smaller events count as this size: every row draws thousands of random numbers in advance.


def chunk_size(shape: Sequence[int], device: torch.device) -> int:
    """Return the default number of samples of a shape, ``(C, H, W)`` for images, per chunk."""
    numel = math.prod(shape)
    return max(1, CHUNK_NUMBERS.get(device.type, CHUNK_NUMBERS["cpu"]) // max(numel, SMALLEST_EVENT))


def progress_bar(steps: int, name: str, *, shown: bool) -> tqdm[Any]:
    """Return a bar that counts the steps of all samples."""
    return tqdm(total=steps, desc=name, unit=" steps", disable=not shown, leave=False)


@dataclass(eq=False)
class Drawing:
    """A run: a number of samples of each measurement, by one method.

    Attributes:
        plan: The method with all settings resolved.
        score: The prior, with counters.
        op: The measurement as passed to the method (whitened).
        y: Measurement, ``(B, *op.out_shape)``.
        num_samples: Samples per measurement.
        first_sample: Number of the first sample, a multiple of ``group``.
        seed: Random seed of the run, or one for each item: each is then drawn as the only item of a run with its seed.
        callback: Called with every :class:`~invdiff.posterior.Step`.
        places: The item and the window of each row of ``y``, if these are windows of images. Their noise is then that of the
            whole image in these places. The window is ``None`` for whole images with such noise.
        shared: Axis of ``x`` along which all slices have the same noise. ``None``: noise of its own for every entry.
        group: Number of samples drawn jointly: the particles of a group, or 1.
        backs_off: Whether guidance is weakened at once where a state diverges. On a GPU that means waiting for every state:
            there it begins with the first chunk that diverges, which is drawn again.

    Raises:
        ValueError: If ``first_sample`` is within a group.
    """

    plan: ResolvedMethod
    score: Counted
    op: Operator
    y: Tensor
    num_samples: int
    first_sample: int
    seed: int | Sequence[int]
    callback: Callable[[Step], object] | None = None
    places: Sequence[tuple[int, Window | None]] | None = None
    shared: int | None = None
    group: int = field(init=False)
    backs_off: bool = field(init=False)

    def __post_init__(self) -> None:
        self.group = self.plan.group(self.score, self.op, self.y)
        self.backs_off = self.y.device.type == "cpu" or not issubclass(self.plan.method.algorithm, Guidance)
        if self.first_sample % self.group:
            before = self.first_sample // self.group * self.group
            raise ValueError(
                f"{self.plan.method.name} draws samples in groups of {self.group}, and first_sample={self.first_sample} is "
                f"within one. Give a multiple, such as {before} or {before + self.group}."
            )

    @property
    def total(self) -> int:
        """Number of steps of all samples."""
        return self.num_samples * len(self.y) * self.plan.steps

    def run(self, *, chunk: int, bar: tqdm[Any]) -> list[Cloud]:
        """Return the samples, ordered by item and then by group.

        Args:
            chunk: Samples per chunk, rounded down to whole groups, at least one group.
            bar: Progress bar, to be updated after each step.

        Raises:
            MemoryError: If a single group does not fit in memory.
        """
        try:
            return list(halve_when_full(self._chunks(chunk), lambda part: self._draw(part, bar), device=self.y.device))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            what = "a group" if self.group > 1 else "one sample"
            numbers = self.group * torch.Size(self.op.in_shape).numel()
            raise MemoryError(
                f"{self.plan.method.name}: the memory of {self.y.device} does not hold {what} of {numbers:,} values. Load "
                "the prior with checkpointing=True or precision='bfloat16', or use smaller tiles of the image: "
                "priors.Tiled(score, tile=...)."
            ) from error

    def _chunks(self, chunk: int) -> list[list[tuple[int, int]]]:
        """Return the chunks: lists of groups, each group given by its first sample and its item."""
        samples = range(self.first_sample, self.first_sample + self.num_samples, self.group)
        rows = [[(first, b) for first in samples] for b in range(len(self.y))]
        if self.op.items is None or not self.plan.method.one_operator:
            rows = [list(itertools.chain(*rows))]
        together = max(1, chunk // self.group)
        return [some[start : start + together] for some in rows for start in range(0, len(some), together)]

    def _draw(self, part: Sequence[tuple[int, int]], bar: tqdm[Any]) -> Cloud:
        before = bar.n, self.score.evaluations, self.score.products
        try:
            return self._try(part, bar)
        # The second error is that of a solve with a state that has diverged and has not been looked at.
        except (DivergenceError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            if self.backs_off:
                raise
        self.backs_off = True
        bar.n, self.score.evaluations, self.score.products = before
        return self._try(part, bar)

    def _try(self, part: Sequence[tuple[int, int]], bar: tqdm[Any]) -> Cloud:
        rows, device = [(first + k, b) for first, b in part for k in range(self.group)], self.y.device
        streams = Streams([self._noise(k, b) for k, b in rows])
        resampling = [
            generator(seed, "resample", b, first, device=device) for first, row in part for seed, b in [self._key(row)]
        ]
        whose, before = [b for _, b in rows], (bar.n, self.score.evaluations, self.score.products)
        algorithm, times = self.plan.algorithm(self.score, self.op.take(whose), self.y[whose]), self.plan.times
        on_step = self._on_step(rows, bar)
        try:
            if isinstance(algorithm, ParticleMethod):
                return run_particles(algorithm, times, streams=streams, resampling=resampling, on_step=on_step)
            if isinstance(algorithm, Guidance):
                rule, backs_off = self.plan.rule, self.backs_off
                x = reverse_diffusion(algorithm, times, rule=rule, streams=streams, on_step=on_step, backs_off=backs_off)
            else:
                assert isinstance(algorithm, Sampler)
                x = algorithm.sample(times, streams=streams, on_step=on_step)
        except DivergenceError as error:
            (k, b), weakened = rows[error.row], isinstance(algorithm, Guidance)
            raise DivergenceError(
                f"{self.plan.method.name}: sample {k} of item {self._item(b)} diverged at step {error.step} of "
                f"{self.plan.steps}"
                f"{', and again with an eighth of the guidance' if weakened else ''}. Use more steps, a smaller step "
                "size, or a noise level that fits the measurement.",
                step=error.step,
                row=error.row,
            ) from error
        except (RuntimeError, MemoryError):
            bar.n, self.score.evaluations, self.score.products = before  # The chunk may be drawn again.
            raise
        one = torch.ones(len(x), dtype=torch.float64, device=x.device)
        return Cloud(x, one, log_evidence=0 * one, ess=one, ancestors=one)  # A chain is a group of size one.

    def _item(self, row: int) -> int:
        """Return the item of a row of ``y``."""
        return row if self.places is None else self.places[row][0]

    def _key(self, row: int) -> tuple[int, int]:
        """Return the seed and the number of the item by which the noise of a row of ``y`` is drawn."""
        item = self._item(row)
        return (self.seed[item], 0) if isinstance(self.seed, Sequence) else (self.seed, item)

    def _noise(self, sample: int, row: int) -> torch.Generator | PlacedNoise | SharedNoise:
        """Return the source of the noise of a sample of a row of ``y``."""
        seed, item = self._key(row)
        if self.places is None:
            source = generator(seed, "sample", item, sample, device=self.y.device)
            return source if self.shared is None else SharedNoise(source, self.op.in_shape, self.shared)
        _, window = self.places[row]
        corner = (0, 0) if window is None else window.corner
        height, width = self.op.in_shape[-2:]
        return PlacedNoise(seed, item, sample, corner=corner, sides=(height, width), device=self.y.device)

    def _on_step(self, rows: Sequence[tuple[int, int]], bar: tqdm[Any]) -> OnStep:
        """Return the callback of the loop for these rows. Samples of a group beyond ``num_samples`` are not reported."""
        callback, count, times = self.callback, itertools.count(), self.plan.times
        kept = [r for r, (k, _) in enumerate(rows) if k < self.first_sample + self.num_samples]
        wanted = [(k - self.first_sample, self._item(b)) for k, b in (rows[r] for r in kept)]
        windows = None if self.places is None else [w for r in kept if (w := self.places[rows[r][1]][1]) is not None] or None

        def report(x_s: Tensor | Callable[[], Tensor], estimate: Tensor | None) -> None:
            bar.update(len(rows))
            if callback is None:
                return
            x_s, step = x_s if isinstance(x_s, Tensor) else x_s(), next(count)
            if len(kept) < len(rows):
                x_s, estimate = x_s[kept], None if estimate is None else estimate[kept]
            # Copies: what the callback keeps does not change later, and what it changes does not reach the run.
            t, s, x_s = times[step].clone(), times[step + 1].clone(), x_s.detach().clone()
            estimate = None if estimate is None else estimate.detach().clone()
            callback(Step(step + 1, self.plan.steps, t, s, x_s, estimate, wanted, windows))

        return report
