"""Largest images and arrays that are read: files that declare more are refused before their values are decoded."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["LARGEST_ARRAY", "LARGEST_IMAGE", "check_array", "check_image"]

LARGEST_IMAGE = 2**26  # pixels; a single feature map of the network takes 8 GB at this size
LARGEST_ARRAY = 2**28  # values


def check_image(height: int, width: int, channels: int = 1) -> None:
    """Raise a ``ValueError``, which does not name the file, if an image is empty or too large to be read."""
    if min(height, width, channels) < 1:
        raise ValueError(f"it holds no pixels: it declares a size of {width} x {height}")
    if height * width > LARGEST_IMAGE or height * width * channels > LARGEST_ARRAY:
        of = f" of {channels} channels" if channels > 4 else ""
        raise ValueError(
            f"it declares {width} x {height} pixels{of}, expected at most {LARGEST_IMAGE} pixels ({LARGEST_ARRAY} values): "
            "crop or shrink it"
        )


def check_array(shape: Sequence[int], largest: int = LARGEST_ARRAY) -> None:
    """Raise a ``ValueError``, which does not name the file, if an array is too large to be read."""
    if math.prod(shape) > largest:
        raise ValueError(f"it declares an array of shape {tuple(shape)}, expected at most {largest} values")
