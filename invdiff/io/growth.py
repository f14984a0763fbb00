"""Growth of the hole that a mask leaves, and how far a JPEG file carries what is under it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from invdiff.io.picture import Picture

__all__ = ["grown", "spoiled_reach"]


def grown(hole: NDArray[np.bool_], pixels: float) -> NDArray[np.bool_]:
    """Return a hole ``(H, W)`` with every pixel whose center is at most ``pixels`` from the center of one of its own."""
    if pixels == 0 or not hole.any():
        return hole
    return np.asarray(ndimage.distance_transform_edt(~hole) <= pixels)


def spoiled_reach(picture: Picture) -> int:
    """Return how far around a hole, in pixels, the picture is better filled too, because it was read from a JPEG file.

    A stroke changes the blocks of 8 x 8 pixels that it touches. What is filled in is nearer to the truth than shared samples of
    color at its edge, but not than the ringing farther away. So 2 pixels where samples of color are shared, 1 elsewhere, 0 in
    other files than JPEG; docs/problems.md has the figures.
    """
    if picture.chroma is None:
        return 0
    return 1 if picture.chroma == (1, 1) else 2
