"""Evaluate a fully convolutional network part by part: the same output, in the memory of one part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["Part", "in_parts", "parts_of"]


@dataclass(frozen=True)
class Part:
    """A range of pixels along one side of an image, with the range that is needed around it.

    Attributes:
        read: The range that is read.
        kept: The range of the output that is kept, counted from the start of ``read``.
    """

    read: slice
    kept: slice


def parts_of(size: int, side: int, *, margin: int, stride: int) -> list[Part]:
    """Return the fewest parts, of nearly equal length, that read at most ``side`` pixels each.

    Args:
        size: Length of the side of the image.
        side: Most pixels of a part, with the margins; more than ``2 * margin + stride``.
        margin: Pixels that are read around what is kept.
        stride: Parts begin at multiples of it, and so do their margins.

    Raises:
        ValueError: If ``side`` is too small.
    """
    margin = -(-margin // stride) * stride
    if side < 2 * margin + stride:
        raise ValueError(f"A part needs at least {2 * margin + stride} pixels along a side, got {side}.")
    if size <= side:
        return [Part(slice(0, size), slice(0, size))]
    most, strides = (side - 2 * margin) // stride, math.ceil(size / stride)
    count = math.ceil(strides / most)
    starts = [k * strides // count * stride for k in range(count)]
    found = []
    for start, stop in zip(starts, [*starts[1:], size], strict=True):
        first, last = max(0, start - margin), min(size, stop + margin)
        found.append(Part(slice(first, last), slice(start - first, stop - first)))
    return found


def in_parts(network: Callable[..., Tensor], maps: Sequence[Tensor], *, side: int, margin: int, stride: int) -> Tensor:
    """Return ``network(*maps)``, evaluated on squares of the maps, of which the inner parts are put together.

    The output is that of a single evaluation up to rounding, if no pixel of it depends on pixels further than ``margin``.
    Gradients store the maps alone, and evaluate every square again.

    Args:
        network: Maps windows of the maps, ``(B, C, h, w)``, to the same window of the output.
        maps: Tensors ``(B, C, H, W)``.
        side: Largest side of a square in pixels.
        margin: Pixels around the inner part of a square.
        stride: The network commutes with shifts by this many pixels.
    """
    again = torch.is_grad_enabled() and any(one.requires_grad for one in maps)
    rows, columns = (parts_of(size, side, margin=margin, stride=stride) for size in maps[0].shape[-2:])

    def kept(down: Part, across: Part) -> Tensor:
        windows = [one[..., down.read, across.read] for one in maps]
        if again:
            done: Tensor = checkpoint(network, *windows, use_reentrant=False, preserve_rng_state=False)
        else:
            done = network(*windows)
        return done[..., down.kept, across.kept].clone()  # so that the rest of the window is freed

    return torch.cat([torch.cat([kept(down, across) for across in columns], -1) for down in rows], -2)
