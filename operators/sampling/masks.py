"""Functions that make masks for ``Mask``: boolean ``(height, width)`` tensors, true where the pixel is measured."""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from ..core.validation import event_shape
from ..core.windows import window_slices

__all__ = ["box_mask", "random_mask", "stripe_mask"]


def box_mask(height: int, width: int, *, top: int, left: int, box_height: int, box_width: int) -> Tensor:
    """Return the mask of an image in which a box is missing.

    Args:
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.
        top: First row of the box, counted from 0 at the top.
        left: First column of the box, counted from 0 at the left.
        box_height: Rows of the box.
        box_width: Columns of the box.

    Returns:
        Boolean tensor ``(height, width)``, false inside the box. Its inverse ``~mask`` measures only the box.

    Raises:
        TypeError: If an argument is not an integer.
        ValueError: If the box is empty or reaches beyond the image.
    """
    sides = _image_sides("box_mask", height, width)
    mask = torch.ones(sides, dtype=torch.bool)
    mask[window_slices("box_mask", sides, top=top, left=left, height=box_height, width=box_width)] = False
    return mask


def random_mask(height: int, width: int, *, missing: float, seed: int) -> Tensor:
    """Return the mask of an image in which random pixels are missing, uniform over all sets of that many pixels.

    Args:
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.
        missing: Fraction of missing pixels, at least 0 and below 1. It is exact up to rounding to whole pixels.
        seed: Any non-negative integer below 2^63; the same seed gives the same mask.

    Returns:
        Boolean tensor ``(height, width)``.

    Raises:
        TypeError: If ``height``, ``width`` or ``seed`` is not an integer.
        ValueError: If ``missing`` or ``seed`` is out of range.
    """
    sides = _image_sides("random_mask", height, width)
    if not 0 <= missing < 1:
        raise ValueError(f"random_mask: missing must be a fraction of at least 0 and below 1, got {missing}.")
    seed = _integer("random_mask", "seed", seed)
    if not 0 <= seed < 2**63:
        raise ValueError(f"random_mask: seed must be a non-negative integer below 2^63, got {seed}.")
    pixels = sides[0] * sides[1]
    order = torch.randperm(pixels, generator=torch.Generator().manual_seed(seed))
    return (order >= round(missing * pixels)).reshape(sides)


def stripe_mask(height: int, width: int, *, period: int, thickness: int, axis: int, first: int = 0) -> Tensor:
    """Return the mask of an image in which evenly spaced stripes are missing: dead detector lines, scan gaps, interlacing.

    Args:
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.
        period: Distance between the beginnings of two stripes, in pixels.
        thickness: Thickness of a stripe, in pixels, less than ``period``.
        axis: Axis across the stripes. 0 or -2: whole rows are missing; 1 or -1: whole columns are missing.
        first: Row or column at which one stripe begins. The others lie before and after it.

    Returns:
        Boolean tensor ``(height, width)``.

    Raises:
        TypeError: If an argument is not an integer.
        ValueError: If ``axis`` is not one of these, or if ``thickness`` is not positive or not below ``period``.
    """
    sides = _image_sides("stripe_mask", height, width)
    numbers = {"period": period, "thickness": thickness, "axis": axis, "first": first}
    period, thickness, axis, first = (_integer("stripe_mask", name, value) for name, value in numbers.items())
    if not 0 < thickness < period:
        raise ValueError(
            f"stripe_mask: thickness must be positive and below period, got thickness={thickness} for period={period}. "
            "Otherwise no pixel or every pixel is missing."
        )
    if axis not in (0, 1, -1, -2):
        raise ValueError(f"stripe_mask: axis must be 0 (rows are missing) or 1 (columns are missing), got {axis}.")
    measured = (torch.arange(sides[axis]) - first) % period >= thickness
    along = measured if axis in (1, -1) else measured.unsqueeze(1)
    return along.expand(sides).contiguous()


def _image_sides(owner: str, height: int, width: int) -> tuple[int, int]:
    try:
        sides = event_shape(owner, (height, width))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{owner}: height and width must be positive integers, got {height!r} and {width!r}.") from None
    return sides[0], sides[1]


def _integer(owner: str, name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{owner}: {name} must be an integer, got {value!r}.") from None
