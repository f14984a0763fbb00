"""Growth of the hole that a mask leaves, and how far a JPEG file carries what is under it."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from invdiff.io.picture import Picture

__all__ = ["grown", "spoiled_reach"]


def grown(hole: NDArray[np.bool_], pixels: float) -> NDArray[np.bool_]:
    """Return a hole ``(H, W)`` with every pixel whose center is at most ``pixels`` from the center of one of its own."""
    if pixels == 0 or not hole.any():
        return hole
    return np.asarray(scipy.ndimage.distance_transform_edt(~hole) <= pixels)


def spoiled_reach(picture: Picture) -> int:
    """Return how far around a hole, in pixels, the picture is better filled too, because it was read from a JPEG file.

    A stroke changes the blocks of 8 x 8 or 16 x 16 pixels that it touches. Where pixels share samples of color, as in most JPEG
    files, those beside the stroke have some of its color, and what is filled in is nearer to the truth: 1 pixel. It is not
    nearer than the ringing farther away, nor than any pixel of other files: 0. docs/problems.md has the figures.
    """
    return 0 if picture.chroma in (None, (1, 1)) else 1
