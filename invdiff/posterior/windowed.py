"""Samples of an image computed only around what its measurement leaves unknown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from invdiff.linalg import norm
from invdiff.methods.resolve import ResolvedMethod
from invdiff.operators import LinearOperator, Mask, Operator, per_item
from invdiff.posterior.counted import Counted
from invdiff.posterior.draw import Drawing, chunk_size, progress_bar
from invdiff.posterior.step import Step
from invdiff.posterior.windows import Window, find_windows
from invdiff.priors import Reach, ScoreModel

__all__ = ["Layout", "WindowedSamples", "draw_in_windows"]


@dataclass(frozen=True, eq=False)
class Layout:
    """What the measurements of a batch leave unknown, and the windows around it, which are found when they are needed.

    Attributes:
        op: The measurement.
        known: The entries that each measurement gives exactly, boolean ``(C, H, W)``: one tensor, or one for each item.
        reach: How far the prior looks.
    """

    op: LinearOperator
    known: Sequence[Tensor]
    reach: Reach

    @classmethod
    def of(cls, op: Operator, score: ScoreModel) -> Layout | None:
        """Return what ``op`` leaves unknown; ``None`` if there are no windows for this operator or this prior.

        The operator must give some entries of an image exactly and tell nothing about the others
        (:attr:`~invdiff.operators.Operator.known`), and it must be known how far the prior looks
        (:attr:`~invdiff.priors.ScoreModel.reach`).
        """
        if score.reach is None or not isinstance(op, LinearOperator) or len(op.in_shape) != 3:
            return None
        parts = [op] if op.items is None else [op.take([b]) for b in range(op.items)]
        known = [part.known for part in parts]
        entries = [one.cpu() for one in known if one is not None]
        if len(entries) < len(known):
            return None
        return cls(op, entries, score.reach)

    @cached_property
    def windows(self) -> Sequence[Sequence[Window]]:
        """The windows of each of the measurements."""
        return [find_windows(~one.all(0).numpy(), self.reach) for one in self.known]

    @property
    def divided(self) -> bool:
        """Whether there is less to compute than whole images."""
        return any(window.sides != self.op.in_shape[-2:] for windows in self.windows for window in windows)

    @property
    def count(self) -> int:
        """Number of windows of all items."""
        return sum(map(len, self.windows))

    @property
    def share(self) -> float:
        """Area of the windows relative to the images."""
        height, width = self.op.in_shape[-2:]
        return sum(window.area for windows in self.windows for window in windows) / (height * width * len(self.windows))

    @property
    def example(self) -> Mask:
        """The measurement in the smallest window."""
        item, window = self.groups(len(self.windows))[0][0]
        return self.measure(item, window)

    @property
    def summary(self) -> str:
        """The windows, in words."""
        return f"computing in {self.count} window{'s' * (self.count > 1)}, {100 * self.share:.2g} % of the picture"

    def groups(self, items: int) -> list[list[tuple[int, Window]]]:
        """Return all windows of a batch with their items, grouped by their size, the smallest first."""
        groups: dict[tuple[int, int], list[tuple[int, Window]]] = {}
        for item in range(items):
            for window in self.windows[item % len(self.windows)]:
                groups.setdefault(window.sides, []).append((item, window))
        return [groups[sides] for sides in sorted(groups, key=lambda sides: sides[0] * sides[1])]

    def part(self, y: Tensor) -> tuple[Mask, Tensor]:
        """Return the measurement in the largest window of the first item, and its data."""
        item, window = self.groups(1)[-1][0]
        return self.measure(item, window), self.op.take([0]).to(y.device).adjoint(y[:1])[(..., *window.box)]

    def measure(self, item: int, window: Window) -> Mask:
        """Return the measurement of an item in a window."""
        return Mask(self.known[item % len(self.known)][(..., *window.box)])


@dataclass(frozen=True, eq=False)
class WindowedSamples:
    """Samples drawn in windows.

    Attributes:
        samples: Samples, ``(N, B, C, H, W)``, equal to the measurement wherever that is exact.
        misfit: Squared difference between the windows and the exact data in them, before these were put in, ``(N, B)``.
        size: Sum of the squares of these data, ``(B,)``.
        evaluations: Network evaluations; that of a window counts as its share of the area of an image.
        products: Vector-Jacobian products of the network, counted likewise.
    """

    samples: Tensor
    misfit: Tensor
    size: Tensor
    evaluations: float
    products: float


def draw_in_windows(
    plan: ResolvedMethod,
    score: ScoreModel,
    layout: Layout,
    y: Tensor,
    *,
    num_samples: int,
    first_sample: int,
    seed: int | Sequence[int],
    chunk: int | None,
    progress: bool,
    callback: Callable[[Step], object] | None,
) -> WindowedSamples:
    """Draw samples of every item of ``y``, window by window, and put them into the measured image.

    Args:
        plan: The method with all settings resolved.
        score: The prior.
        layout: The windows.
        y: Measurement, ``(B, *op.out_shape)``.
        num_samples: Samples per measurement.
        first_sample: Number of the first sample.
        seed: Random seed of the run, or one for each item.
        chunk: Samples per chunk. Default: as many as for whole images of the size of a window.
        progress: Whether to show a progress bar.
        callback: Called with every :class:`~invdiff.posterior.Step`.
    """
    given = layout.op.to(y.device).adjoint(y)
    samples = given.expand(num_samples, *given.shape).clone()
    misfit, size = given.new_zeros(num_samples, len(y)), given.new_zeros(len(y))
    counted, pixels = Counted(score), given[0, 0].numel()
    evaluations = products = 0.0
    groups = layout.groups(len(y))
    total = plan.steps * num_samples * sum(map(len, groups))
    with progress_bar(total, plan.method.name, shown=progress) as bar:
        for places in groups:
            ops = [layout.measure(item, window) for item, window in places]
            op = (ops[0] if len(ops) == 1 else per_item(ops)).to(y.device, y.dtype)
            inside = torch.stack([given[(item, ..., *window.box)] for item, window in places])
            drawing = Drawing(plan, counted, op, inside, num_samples, first_sample, seed, callback, places)
            parts = drawing.run(chunk=chunk or chunk_size(op.in_shape, y.device), bar=bar)
            x = torch.cat([part.x for part in parts]).reshape(len(places), num_samples, *op.in_shape)
            for (item, window), mask, drawn, data in zip(places, ops, x, inside, strict=True):
                known = mask.mask.to(y.device)
                misfit[:, item] += norm(torch.where(known, drawn - data, 0)) ** 2
                size[item] += norm(data[None])[0] ** 2
                fills = torch.from_numpy(window.fills).to(y.device) & ~known
                part = samples[(slice(None), item, ..., *window.box)]
                part.copy_(torch.where(fills, drawn, part))
            share = places[0][1].area / pixels
            evaluations, products = evaluations + share * counted.evaluations, products + share * counted.products
            counted.evaluations = counted.products = 0
    return WindowedSamples(samples, misfit, size, evaluations, products)
