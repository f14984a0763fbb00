"""Padding of a signal beyond its border, axis by axis, and its adjoint."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

__all__ = ["BOUNDARIES", "extend", "fold"]

BOUNDARIES = {"circular": "circular", "reflect": "reflect", "zero": "constant"}  # With their names in torch.


def extend(x: Tensor, margins: Sequence[tuple[int, int]], boundary: str) -> Tensor:
    """Continue ``x``, ``(B, C, ...)``, beyond its border by ``(before, after)`` entries along each axis after the second.

    Args:
        x: The signal, with one to three axes after the second.
        margins: ``(before, after)`` for each of these axes, less than its length.
        boundary: ``circular`` (periodic), ``reflect`` (mirrored, the border entry not repeated) or ``zero``.
    """
    return F.pad(x, [width for margin in reversed(margins) for width in margin], BOUNDARIES[boundary])


def fold(x: Tensor, margins: Sequence[tuple[int, int]], boundary: str) -> Tensor:
    """Apply the adjoint of ``extend``. It adds slices, because scattered sums are not reproducible on a GPU."""
    for axis, (before, after) in enumerate(margins, start=2):
        side = x.shape[axis] - before - after
        head, inner, tail = (x.narrow(axis, *part) for part in ((0, before), (before, side), (before + side, after)))
        if boundary == "zero" or not before + after:
            x = inner
            continue
        x = inner.clone()
        if boundary == "circular":
            x.narrow(axis, side - before, before).add_(head)
            x.narrow(axis, 0, after).add_(tail)
        else:
            x.narrow(axis, 1, before).add_(head.flip(axis))
            x.narrow(axis, side - 1 - after, after).add_(tail.flip(axis))
    return x
