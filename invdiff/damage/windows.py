"""Windows that cover a picture of any size, so that networks need the memory of one window."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Window", "cut", "windows"]


@dataclass(frozen=True)
class Window:
    """A part of a picture, and the part around it that is seen as well.

    Attributes:
        core: Rows and columns whose results are kept.
        seen: Rows and columns of the core and its surroundings; they may reach beyond the picture.
    """

    core: tuple[slice, slice]
    seen: tuple[tuple[int, int], tuple[int, int]]

    @property
    def inner(self) -> tuple[slice, slice]:
        """The core, relative to what is seen."""
        row, column = (slice(part.start - a, part.stop - a) for part, (a, _) in zip(self.core, self.seen, strict=True))
        return row, column


def windows(height: int, width: int, *, core: int, margin: int, stride: int) -> Iterator[Window]:
    """Yield windows whose cores partition a picture.

    Args:
        height: Rows of the picture.
        width: Columns of the picture.
        core: Side of the cores in pixels, a multiple of ``stride``.
        margin: Surroundings that are seen on each side in pixels, a multiple of ``stride``.
        stride: What the sides of windows, and their places, are multiples of.
    """
    for top, left in itertools.product(range(0, height, core), range(0, width, core)):
        parts = [slice(a, min(a + core, n)) for a, n in ((top, height), (left, width))]
        ends = [a + core if a + core < n else -(-n // stride) * stride for a, n in ((top, height), (left, width))]
        (above, below), (before, after) = (
            (max(part.start - margin, 0), min(end + margin, -(-n // stride) * stride))
            for part, end, n in zip(parts, ends, (height, width), strict=True)
        )
        yield Window((parts[0], parts[1]), ((above, below), (before, after)))


def cut(x: Tensor, window: Window) -> Tensor:
    """Return what a window sees of ``x``, ``(C, H, W)``, as a batch of one; beyond the picture its last row and column."""
    (above, below), (before, after) = window.seen
    rows = torch.arange(above, below).clamp(max=x.shape[-2] - 1)
    columns = torch.arange(before, after).clamp(max=x.shape[-1] - 1)
    return x[:, rows][:, :, columns][None]
