"""Content of an image file, as integers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Decoded", "upright", "without_premultiplication"]


class Decoded(NamedTuple):
    """Content of an image file.

    Attributes:
        values: Pixels ``(H, W, C)`` in the bit depth of the file, upright; alpha, if any, is the last channel.
        alpha: Whether the last channel is alpha: two channels may be gray and alpha, or two image channels.
        icc: The embedded color profile.
        exif: EXIF data for results made from the image, see :func:`invdiff.io.metadata.exif_of`.
        notes: What was taken for granted, for the user.
        chroma: Chroma subsampling of a JPEG file, see :class:`invdiff.io.picture.Picture`.
        format: Format of the file in the words of Pillow, such as ``JPEG``, by its content.
    """

    values: NDArray[Any]
    alpha: bool
    icc: bytes | None = None
    exif: bytes | None = None
    notes: tuple[str, ...] = ()
    chroma: tuple[int, int] | None = None
    format: str = ""


def upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo an EXIF orientation of ``(H, W, C)``."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    for axis, mirrored in enumerate([(3, 4, 7, 8), (2, 3, 6, 7)]):
        values = np.flip(values, axis) if orientation in mirrored else values
    return values


def without_premultiplication(values: NDArray[Any]) -> NDArray[Any]:
    """Divide colors ``(H, W, C)`` by alpha, the last channel, in the same type; invisible colors become 0."""
    white = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1
    alpha = values[..., -1:].astype(np.float64)
    colours = np.divide(values[..., :-1] * float(white), alpha, out=np.zeros(values[..., :-1].shape), where=alpha > 0)
    if values.dtype.kind in "iu":
        colours = np.rint(colours).clip(0, white)
    return np.concatenate([colours.astype(values.dtype), values[..., -1:]], axis=-1)
