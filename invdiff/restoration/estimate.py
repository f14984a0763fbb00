"""Estimates of the time of a run from its first steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from invdiff.posterior import Step

__all__ = ["ShareWatch", "Stopwatch"]

LONG = 10.0  # seconds of a first step in which what is done only once, such as the compilation of kernels, no longer counts
ENOUGH = 1.0  # seconds of steps after the first one that are enough to estimate the others


@dataclass
class Stopwatch:
    """Estimates the duration of a run from its first steps; the callback of :meth:`invdiff.PosteriorSampler.run`.

    The first step is slower than the others, so it counts by itself unless it takes ten seconds. The estimate is made after
    one second of further steps, or a quarter of the steps, whichever comes first. It costs nothing.

    Attributes:
        costs: Relative cost of every step, ``(steps,)``.
        rows: Number of samples of the run.
        device: Device of the run.
        report: Called once, with the estimated duration of the whole run in seconds, and the seconds that are left.
        area: Pixels of all windows of a sample, if it is computed in windows.
        seconds: The estimate; ``None`` before it is made.
    """

    costs: Sequence[float]
    rows: int
    device: torch.device
    report: Callable[[float, float], object] | None = None
    area: int = 0
    seconds: float | None = None
    _started: float = field(default_factory=time.perf_counter)
    _first: float = 0.0  # time at the end of the first step

    def __call__(self, step: Step) -> None:
        if self.seconds is not None:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now, costs = time.perf_counter(), self.costs
        passed = now - self._started
        if step.number == 1:
            self._first = now
            if passed < LONG and step.steps > 1:
                return
            once, unit = 0.0, passed / costs[0]
        elif now - self._first < ENOUGH and step.number < max(2, step.steps // 4):
            return
        else:
            unit = (now - self._first) / sum(costs[1 : step.number])
            once = self._first - self._started - unit * costs[0]
        done = len(step.rows) if step.windows is None else sum(window.area for window in step.windows) / self.area
        self.seconds = once + unit * sum(costs) * self.rows / done
        if self.report is not None:
            self.report(self.seconds, self.seconds - passed)


@dataclass
class ShareWatch:
    """Estimates the duration of a run that says which share of it is done; the callback of :meth:`invdiff.BlindSampler.run`.

    The estimate is made two seconds after the first call, whose time is not a measure of the others.

    Attributes:
        report: Called once, with the estimated duration of the whole run in seconds, and the seconds that are left.
        seconds: The estimate; ``None`` before it is made.
    """

    report: Callable[[float, float], object] | None = None
    seconds: float | None = None
    _started: float = field(default_factory=time.perf_counter)
    _first: tuple[float, float] | None = None  # time and share of the first call

    def __call__(self, share: float) -> None:
        now = time.perf_counter()
        if self._first is None:
            self._first = now, share
            return
        (since, before) = self._first
        if self.seconds is not None or now - since < 2 * ENOUGH or share <= before:
            return
        left = (1 - share) * (now - since) / (share - before)
        self.seconds = now - self._started + left
        if self.report is not None:
            self.report(self.seconds, left)
