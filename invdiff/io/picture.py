"""A picture in memory: pixels, opacity, and what is needed to write a result in the same mode."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from invdiff.io.limits import check_image

if TYPE_CHECKING:
    from invdiff.formats.origin import Origin

__all__ = ["Array", "Picture", "check_picture", "native", "picture_of_array", "spanned", "unit"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image read from a file, with the metadata needed to write a result in the same mode.

    Attributes:
        pixels: ``(C, H, W)``, float64, spanning [-1, 1]. ``C`` is 1 (gray) or 3 (RGB), or any number for TIFF files and arrays.
        alpha: Opacity ``(H, W)`` in [0, 1]; ``None`` if the file has none.
        bits: Bits per channel of the file, 8 or 16; 16 for arrays of floats.
        icc: The color profile embedded in the file.
        exif: The EXIF data of the file as results carry them: orientation 1, without thumbnail; see :mod:`invdiff.io.metadata`.
        notes: What was taken for granted when the file was read, for the user.
        chroma: If it was read from a JPEG file: width and height in stored pixels of a sample of color, such as ``(2, 2)`` for
            4:2:0, or ``(1, 1)`` for 4:4:4 and grayscale. ``None``: from another file.
        format: Format of the file by its content: ``PNG``, ``JPEG``, ``TIFF``, ``WEBP``, ``BMP``, ``AVIF``, ``HEIF``; empty for
            arrays.
        origin: The file that it was read from, if that is of a format with units and a header, see :mod:`invdiff.formats`.
    """

    pixels: Array
    alpha: Array | None = None
    bits: int = 8
    icc: bytes | None = None
    exif: bytes | None = None
    notes: tuple[str, ...] = ()
    chroma: tuple[int, int] | None = None
    format: str = ""
    origin: Origin | None = None


def picture_of_array(values: NDArray[Any], source: str) -> Picture:
    """Return the picture of an array, as of an ``.npy`` file that holds it; ``source`` names it in errors."""
    check_picture(values.shape, source)
    channels = native(values[None] if values.ndim == 2 else values)
    return Picture(spanned(channels, source), bits=8 if values.dtype.itemsize == 1 else 16)


def native(values: NDArray[Any]) -> NDArray[Any]:
    """Return an array in the byte order of this machine: torch takes no other, and comparisons of types fail on others."""
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def check_picture(shape: tuple[int, ...], source: str | os.PathLike[str]) -> None:
    """Raise an error if an array of a shape is no picture."""
    if len(shape) not in (2, 3) or not math.prod(shape):
        raise ValueError(f"{source}: expected an array of shape (H, W) or (C, H, W), got {shape}.")
    if len(shape) == 3 and shape[-1] <= 4 < shape[0]:
        raise ValueError(f"{source}: expected the channels first, (C, H, W), got {shape}: transpose the array.")
    try:
        check_image(*shape[-2:], *shape[:-2])
    except ValueError as error:
        raise ValueError(f"{source}: cannot be read as an image: {error}.") from error


def spanned(values: NDArray[Any], path: Path | str) -> Array:
    """Convert image values of any supported type to float64 spanning [-1, 1], with one array of that size in memory."""
    pixels = unit(np.ascontiguousarray(values), path)
    pixels *= 2
    pixels -= 1
    return pixels


def unit(values: NDArray[Any], path: Path | str) -> Array:
    """Convert image values of any supported type to float64 on the 0..1 scale."""
    if values.dtype in (np.uint8, np.uint16):
        return values / float(np.iinfo(values.dtype).max)
    if values.dtype.kind not in "bf":
        raise ValueError(
            f"{path}: holds {values.dtype} values; expected unsigned 8- or 16-bit integers, or floats on the 0..1 scale. "
            "For other numbers, give the levels of the file, --black and --white."
        )
    with np.errstate(invalid="ignore"):  # signaling NaN: named below
        scaled = values.astype(np.float64)
    if not np.isfinite(scaled).all():
        raise ValueError(f"{path}: holds nan or inf; expected finite values on the 0..1 scale.")
    largest = np.abs(scaled).max()
    if largest > 16:  # Noise may exceed the 0..1 scale, but never by this much.
        raise ValueError(f"{path}: values reach {largest:g}; expected the 0..1 scale: give the level of white, --white.")
    return scaled
