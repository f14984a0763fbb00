"""HEIF and AVIF files, the pictures in containers of MPEG-4: HEIF by pillow-heif, if it is installed, and AVIF by Pillow."""

from __future__ import annotations

import importlib

from PIL import features

__all__ = ["coding_of", "what_is_missing"]

# By brand, at byte 8. The brands mif1 and msf1 say nothing about the coding; such a file names that in its further brands.
AVIF, HEIF = (b"avif", b"avis"), (b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevx", b"mif1", b"msf1")
BRANDS = slice(16, 64)  # bytes that have the further brands


def coding_of(head: bytes) -> str | None:
    """Return the format of a HEIF or AVIF file in the words of Pillow, ``HEIF`` or ``AVIF``; ``None`` for other files.

    Args:
        head: The first bytes of the file.
    """
    if head[4:8] != b"ftyp" or head[8:12] not in AVIF + HEIF:
        return None
    return "AVIF" if head[8:12] in AVIF or any(brand in head[BRANDS] for brand in AVIF) else "HEIF"


def what_is_missing(head: bytes) -> str | None:
    """Return what a HEIF or AVIF file is, and what must be installed to read it; ``None`` if nothing: Pillow reads it then."""
    if coding_of(head) == "AVIF":
        if features.check("avif"):
            return None
        return "is an AVIF image, which Pillow reads from version 11.3: pip install -U pillow, or convert it to PNG or TIFF"
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return "is a HEIC image, which needs pillow-heif: pip install 'invdiff[heif]', or convert it to PNG or TIFF"
    return None
