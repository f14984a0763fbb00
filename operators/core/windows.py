"""Rectangular windows in an image, as a crop keeps and a box mask removes."""

from __future__ import annotations

import operator

__all__ = ["window_slices"]


def window_slices(owner: str, sides: tuple[int, int], *, top: int, left: int, height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and the columns of a window of ``height`` by ``width`` pixels in an image of ``sides`` ``(H, W)``.

    Args:
        owner: Name of the caller, to begin error messages with.
        sides: Height and width of the image.
        top: First row of the window, counted from 0 at the top.
        left: First column of the window, counted from 0 at the left.
        height: Rows of the window.
        width: Columns of the window.

    Raises:
        TypeError: If ``top``, ``left``, ``height`` or ``width`` is not an integer.
        ValueError: If the window is empty or does not lie inside the image.
    """
    try:
        top, left, height, width = (operator.index(value) for value in (top, left, height, width))
    except TypeError:
        got = f"{top!r}, {left!r}, {height!r} and {width!r}"
        raise TypeError(f"{owner}: top, left, height and width of the window must be integers, got {got}.") from None
    if min(top, left) < 0 or min(height, width) < 1 or top + height > sides[0] or left + width > sides[1]:
        raise ValueError(
            f"{owner}: the window must hold a pixel and lie inside the image, got {height} x {width} pixels from row {top}, "
            f"column {left} on, for height {sides[0]}, width {sides[1]}. Rows and columns are counted from 0 at the top left."
        )
    return slice(top, top + height), slice(left, left + width)
