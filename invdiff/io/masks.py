"""Masks: which pixels of a picture are black and which white."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from invdiff.io.picture import Array, Picture, check_picture, picture_of_array

__all__ = ["gray", "mask_of_array", "mask_of_picture"]

SOFT_MASK_SHARE = 0.01
ZERO_AND_ONE = "the mask holds 0 and 1 alone: 1 is taken as white"


def mask_of_array(values: NDArray[Any], source: str, *, keep: str) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Return the mask in an array, see :func:`read_mask`, and what was taken for granted; ``source`` names it in errors."""
    check_picture(values.shape, source)
    if values.dtype.kind in "iu" and values.size and values.min() >= 0 and values.max() == 1:
        known, notes = mask_of_picture(picture_of_array(values == 1, source), source, keep=keep)
        return known, (f"{source}: {ZERO_AND_ONE}", *notes)
    return mask_of_picture(picture_of_array(values, source), source, keep=keep)


def mask_of_picture(picture: Picture, source: str, *, keep: str) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Return the mask in a picture, see :func:`read_mask`, and what was taken for granted; ``source`` names it in errors."""
    grey, notes = gray(picture, source, "a mask"), picture.notes
    levels = (picture.pixels + 1) / 2 * (2**picture.bits - 1)
    if 0.999 < levels.max() < 1.001 and (np.abs(levels - levels.round()) < 0.001).all() and levels.min() > -0.001:
        grey, notes = levels.mean(0), (*notes, f"{source}: {ZERO_AND_ONE}")
    soft = float(((grey > 0.1) & (grey < 0.9)).mean())
    if soft > SOFT_MASK_SHARE:
        raise ValueError(
            f"{source}: expected a mask of black and white pixels, but {soft:.1%} are gray or colored (at most "
            f"{SOFT_MASK_SHARE:.0%} may be, at edges): make every pixel black (keep) or white (fill)."
        )
    return grey >= 0.5 if keep == "white" else grey < 0.5, notes


def gray(picture: Picture, source: str, what: str) -> Array:
    if picture.alpha is not None and (picture.alpha < 1).any():
        raise ValueError(f"{source}: {what} must not be transparent, because its meaning would be a guess. Flatten the image.")
    return np.asarray((picture.pixels.mean(0) + 1) / 2, dtype=np.float64)
