"""Volumes and clips from a prior of images: the prior of every slice, one independent of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from invdiff.linalg import over_items
from invdiff.priors.score_model import ScoreModel

__all__ = ["Slices"]

ROW_NUMBERS = {"cpu": 2**19, "cuda": 2**23}  # entries of x denoised at a time by default


class Slices(ScoreModel):
    r"""A prior of volumes or clips whose slices are independent, each distributed as under a prior of images.

    .. math:: p(x) = \prod_k p_\text{slice}(x_k), \qquad E[x_0 | x_t]_k = E_\text{slice}[x_0 | x_{t, k}]

    Gray volumes are ``(1, D, H, W)`` and color clips ``(C, T, H, W)``: the slices of an item are rows of the batch of the prior
    of images. The denoiser is exactly that of the product, so every method is as exact as with single images. That neighboring
    slices are alike is no part of this prior: measure their differences as 0, with :func:`~invdiff.operators.stack` and
    :class:`~invdiff.operators.FiniteDifferences` along the axis; ``docs/how-to/volumes.md`` has examples.

    With more slices than ``rows``, gradients store only the slices and denoise them again: the memory is that of ``rows``
    slices, and the time a third more.

    Args:
        score: The prior of one slice, such as images ``(C, H, W)``.
        axis: Axis of the slices in an item, without the batch axis. Default: 1, after the channels.
        rows: Slices denoised at a time. Default: half a million entries in all on a CPU, eight million on a GPU.

    Raises:
        ValueError: If the number of axes of the prior is free, if its items are codes or have distributions of their own, or if
            an argument is out of range.
    """

    def __init__(self, score: ScoreModel, *, axis: int = 1, rows: int | None = None) -> None:
        event = score.event_shape
        if event is None or score.batched or score.latent:
            kind = "codes" if score.latent else "items of a batch" if score.batched else "items of any number of axes"
            raise ValueError(f"Slices: needs a prior of single slices, such as images (C, H, W), got a prior of {kind}.")
        if not isinstance(axis, int) or not -len(event) - 1 <= axis <= len(event):
            raise ValueError(
                f"Slices: axis must be one of the {len(event) + 1} axes of stacks of items of shape {event}, got {axis!r}."
            )
        if rows is not None and (not isinstance(rows, int) or rows < 1):
            raise ValueError(f"Slices: rows must be a whole number of at least 1, got {rows!r}.")
        self.score_model, self.axis, self.rows = score, axis % (len(event) + 1), rows
        self.schedule, self.event_shape = score.schedule, (*event[: self.axis], None, *event[self.axis :])
        self.learned, self.widest_hole = score.learned, score.widest_hole
        self.notes, self.scale = score.notes, score.scale

    def _summary(self) -> Sequence[str]:
        return (repr(self.score_model), *([f"axis={self.axis}"] if self.axis != 1 else []))

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        by_slice = x_t.movedim(1 + self.axis, 1)
        slices, times = by_slice.flatten(0, 1), torch.as_tensor(t)
        if times.ndim:
            times = over_items(times, by_slice).expand(*by_slice.shape[:2], *(1,) * (x_t.ndim - 2)).flatten()
        rows = self.rows or max(1, ROW_NUMBERS.get(x_t.device.type, ROW_NUMBERS["cpu"]) // math.prod(slices.shape[1:]))
        again = len(slices) > rows and torch.is_grad_enabled() and x_t.requires_grad
        parts = torch.split(slices, rows)
        each = torch.split(times, rows) if times.ndim else [times] * len(parts)
        denoised = torch.cat(
            [
                checkpoint(self.score_model.denoise, part, when, use_reentrant=False, preserve_rng_state=False)
                if again
                else self.score_model.denoise(part, when)
                for part, when in zip(parts, each, strict=True)
            ]
        )
        return denoised.reshape(by_slice.shape).movedim(1, 1 + self.axis)

    def to(self, device: torch.device | str | None = None) -> Slices:
        return Slices(self.score_model.to(device), axis=self.axis, rows=self.rows)

    def describe(self) -> dict[str, Any]:
        return self.score_model.describe() | {"slices": self.axis}
