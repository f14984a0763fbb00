"""Transparent pixels, whose colors are arbitrary."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy

from invdiff.io.images import Picture

__all__ = ["with_visible_colors"]


def with_visible_colors(picture: Picture, where: str) -> tuple[Picture, tuple[str, ...]]:
    """Return the picture with the colors of invisible pixels (alpha 0) taken from the nearest visible ones, and a note.

    Raises:
        ValueError: If all pixels are invisible.
    """
    if picture.alpha is None or picture.alpha.all():
        return picture, ()
    hidden = picture.alpha == 0
    if hidden.all():
        raise ValueError(f"{where}: all pixels are transparent (alpha 0), so that none shows a color.")
    places = scipy.ndimage.distance_transform_edt(hidden, return_distances=False, return_indices=True)
    filled = replace(picture, pixels=np.ascontiguousarray(picture.pixels[:, places[0], places[1]]))
    if picture.origin is not None:  # they are not measured, and have a note of their own
        return filled, ()
    note = (
        f"{hidden.mean():.1%} of the pixels are transparent (alpha 0): their colors are arbitrary, and are taken from the "
        "nearest visible pixels"
    )
    return filled, (note,)
