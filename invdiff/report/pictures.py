"""Pictures as the page holds them: reduced, in sRGB, and encoded as data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from invdiff.io.figures import rgb_pixels
from invdiff.io.images import Picture

__all__ = ["Coded", "coded", "data_uri", "fitted", "reduced", "shown", "unit_pixels"]

PICTURE_QUALITY, MAP_QUALITY = 82, 85  # of WebP files
EFFORT = 4  # 0 to 6


@dataclass(frozen=True)
class Coded:
    """Values as pixels of 8 bits.

    Attributes:
        source: Data URI of a gray or RGB picture, in which 0 is ``low`` and 255 is ``high``.
        low: Smallest value that is shown.
        high: Largest value that is shown.
    """

    source: str
    low: float
    high: float


def fitted(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the size ``(H, W)`` of a picture whose longer side is reduced to ``side`` pixels, if it is longer."""
    longest = max(height, width)
    if longest <= side:
        return height, width
    return max(1, round(height * side / longest)), max(1, round(width * side / longest))


def shown(picture: Picture, side: int) -> NDArray[np.uint8]:
    """Return a picture as sRGB, ``(H, W, 3)``, reduced to ``side`` pixels; what is transparent is white."""
    image = Image.fromarray(rgb_pixels("picture", picture.pixels))
    if picture.icc is not None and len(picture.pixels) == 3:
        image = _in_srgb(image, picture.icc)
    if picture.alpha is not None:
        opacity = Image.fromarray(np.rint(255 * picture.alpha).astype(np.uint8))
        image = Image.composite(image, Image.new("RGB", image.size, "white"), opacity)
    height, width = fitted(image.height, image.width, side)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def _in_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    """Return a picture converted from its color profile; as it is if the profile cannot be used."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image
    return image if converted is None else converted


def reduced(values: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Return a map ``(H, W)`` reduced to ``side`` pixels by means over areas."""
    height, width = fitted(values.shape[0], values.shape[1], side)
    image = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BOX)).astype(np.float32)


def unit_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return pixels of 8 bits on the 0..1 scale."""
    return pixels.astype(np.float32) / np.float32(255)


def coded(values: NDArray[Any], low: float, high: float) -> Coded:
    """Return values ``(H, W)`` or ``(H, W, 3)`` as a picture; those beyond the limits are at them."""
    span = max(high - low, 1e-12)
    pixels = np.rint(((values - low) / span).clip(0, 1) * 255).astype(np.uint8)
    return Coded(data_uri(pixels, quality=MAP_QUALITY), low, high)


def data_uri(pixels: NDArray[np.uint8], *, quality: int = PICTURE_QUALITY) -> str:
    """Return a picture of 8 bits, ``(H, W)`` or ``(H, W, 3)``, as the data URI of a WebP file."""
    file = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(file, format="WEBP", quality=quality, method=EFFORT)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
