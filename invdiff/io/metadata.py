"""EXIF data and resolution of a picture: read from any file, made true of the results, and written to PNG and TIFF files."""

from __future__ import annotations

import contextlib
import io
import math
import struct
import warnings
from collections.abc import Mapping
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import IFDRational, ImageFileDirectory_v2

__all__ = [
    "description",
    "enlarged",
    "exif_of",
    "exif_of_tiff",
    "orientation_of",
    "pixels_per_inch",
    "sized",
    "stripped",
    "tiff_with_exif",
    "with_description",
]

ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 274, 282, 283, 296
DESCRIPTION, EXIF, GPS, INTEROPERABILITY = 270, 34665, 34853, 40965
WIDTH, HEIGHT = 40962, 40963  # in the EXIF directory
INCH, CENTIMETER = 2, 3
# What describes the photograph; in TIFF files it shares a directory with what describes the storage of the pixels.
KEPT = (
    DESCRIPTION,
    271,  # maker
    272,  # model
    X_RESOLUTION,
    Y_RESOLUTION,
    RESOLUTION_UNIT,
    305,  # software
    306,  # date
    315,  # artist
    316,  # host computer
    18246,  # rating
    18249,  # rating in percent
    33432,  # copyright
    40091,  # title, comment, author, keywords and subject, as Windows writes them
    40092,
    40093,
    40094,
    40095,
)
# Notes of the maker hold offsets into the file, and previews; the others describe the storage of the pixels.
DROPPED = (37500, 37121, 37122, WIDTH, HEIGHT, INTEROPERABILITY)
LARGEST = 2**16 - 64  # bytes: what a JPEG segment holds


def exif_of(image: Image.Image) -> bytes | None:
    """Return the EXIF data of an open image, for results made from it; ``None`` if it has none.

    Orientation is 1, as the pixels are turned upright. Thumbnail, notes of the maker, and what describes the storage of the
    pixels, are left out. A resolution stored outside the EXIF data is included. Damaged parts are left out.

    Returns:
        A TIFF structure, little-endian, as stored in the chunk ``eXIf`` of PNG files.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exif = image.getexif()
        except Exception:  # damaged; Pillow raises many kinds of errors
            exif = Image.Exif()
        # Pillow makes up 72 dots per inch for JPEG files that say none.
        made_up = image.format in ("JPEG", "MPO") and image.info.get("jfif_unit") not in (1, 2)
        return _clean(exif, None if made_up else image.info.get("dpi"))


def exif_of_tiff(content: Any, offset: int | None = None) -> bytes | None:
    """Return the same for an open TIFF file; ``offset``: of the directory of a page. Default: the first one."""
    exif = Image.Exif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            content.seek(0)
            if offset is not None:  # Pillow then does not look at the head of the file
                exif.endian, exif.bigtiff = "<" if content.read(2) == b"II" else ">", 43 in content.read(2)
            exif.load_from_fp(content, offset)
        except Exception:
            return None
        return _clean(exif, None)


def _clean(exif: Image.Exif, dpi: Any) -> bytes | None:
    """Return EXIF data without what does not describe the results, as bytes, given the resolution outside of it."""
    first = _written(_part(exif, None), KEPT)
    description = first.get(DESCRIPTION)
    if isinstance(description, str) and description.lstrip().startswith(("{", "<", "ImageJ=", "SCANIMAGE")):
        del first[DESCRIPTION]  # the layout of the file, in the words of a program
    first |= _resolution(first, dpi)
    nested = {tag: _written(_part(exif, tag), None) for tag in (EXIF, GPS)}
    shared = _written(_part(exif, INTEROPERABILITY), (1, 2))
    for tag in DROPPED:
        nested[EXIF].pop(tag, None)
    if nested[EXIF] and shared:
        nested[EXIF][INTEROPERABILITY] = shared
    entries = first | {tag: values for tag, values in nested.items() if values}
    if not entries:
        return None
    content = _bytes({ORIENTATION: 1, **entries})
    return content if len(content) <= LARGEST else None


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an open image, 1 to 8; 1 if it has none or a damaged one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            orientation = image.getexif().get(ORIENTATION, 1)
        except Exception:
            return 1
    return orientation if orientation in range(1, 9) else 1


def with_description(text: str) -> bytes:
    """Return EXIF data that say what a picture is, in ASCII."""
    return _bytes({ORIENTATION: 1, DESCRIPTION: text})


def description(exif: bytes) -> str | None:
    """Return what EXIF data say that the picture is."""
    text = _entries(exif).get(DESCRIPTION)
    return text if isinstance(text, str) else None


def sized(exif: bytes, height: int, width: int) -> bytes:
    """Return EXIF data that declare an image size."""
    entries = _entries(exif)
    if EXIF in entries:
        entries[EXIF] = {**entries[EXIF], WIDTH: width, HEIGHT: height}
    return _bytes(entries)


def stripped(exif: bytes | None) -> bytes | None:
    """Return EXIF data with the resolution alone: no place, date, camera or names; ``None`` if they have no resolution."""
    entries = {} if exif is None else _entries(exif)
    kept = {tag: entries[tag] for tag in (X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT) if tag in entries}
    return _bytes({ORIENTATION: 1, **kept}) if kept else None


def enlarged(exif: bytes, factor: float) -> bytes:
    """Return the EXIF data of an image with ``factor`` times as many pixels a side, of the same size on paper."""
    entries = _entries(exif)
    for tag in (X_RESOLUTION, Y_RESOLUTION):
        if tag in entries:
            entries[tag] = _rational(factor * float(entries[tag]))
    return _bytes(entries)


def pixels_per_inch(exif: bytes) -> tuple[float, float] | None:
    """Return the resolution ``(x, y)`` in EXIF data."""
    entries = _entries(exif)
    if X_RESOLUTION not in entries or Y_RESOLUTION not in entries:
        return None
    inch = {INCH: 1.0, CENTIMETER: 2.54}.get(entries.get(RESOLUTION_UNIT, INCH))
    return None if inch is None else (float(entries[X_RESOLUTION]) * inch, float(entries[Y_RESOLUTION]) * inch)


def tiff_with_exif(content: bytes, exif: bytes) -> bytes:
    """Return a little-endian TIFF file of one page with EXIF data in its directory."""
    (start,) = struct.unpack_from("<I", content, 4)
    old = _directory(content, start)
    content += b"\0" * (len(content) % 2)
    # Pillow writes the offsets in a directory for the place where it will be: after all that is there, and the directory itself
    # is written again behind it, with the entries of both.
    block = _structure(_entries(exif)).tobytes(len(content))
    entries = {**old, **_directory(block, 0)}
    merged = b"".join(entries[tag] for tag in sorted(entries))
    content += block + b"\0" * (len(block) % 2)
    return content[:4] + struct.pack("<I", len(content)) + content[8:] + struct.pack("<H", len(entries)) + merged + bytes(4)


def _directory(content: bytes, start: int) -> dict[int, bytes]:
    """Return the entries of a directory by tag."""
    (count,) = struct.unpack_from("<H", content, start)
    entries = [content[start + 2 + 12 * k : start + 14 + 12 * k] for k in range(count)]
    return {int.from_bytes(entry[:2], "little"): entry for entry in entries}


def _part(exif: Image.Exif, tag: int | None) -> dict[int, Any]:
    try:
        return dict(exif if tag is None else exif.get_ifd(tag))
    except Exception:
        return {}


def _written(values: Mapping[int, Any], tags: tuple[int, ...] | None) -> dict[int, Any]:
    """Return the values that can be written: damaged files hold some that cannot."""
    kept = {}
    for tag in values if tags is None else tags:
        if tag not in values or isinstance(values[tag], dict):
            continue
        with contextlib.suppress(Exception):
            _structure({tag: values[tag]}).tobytes(8)
            kept[tag] = values[tag]
    return kept


def _resolution(first: dict[int, Any], dpi: Any) -> dict[int, Any]:
    """Return a valid resolution, from the EXIF data or else from outside of them; remove an invalid one."""
    found = [first.pop(tag, None) for tag in (X_RESOLUTION, Y_RESOLUTION)]
    unit = first.pop(RESOLUTION_UNIT, INCH)
    for pair, in_unit in ((found, unit), (dpi, INCH)):
        try:
            x, y = (float(value) for value in pair)
        except (TypeError, ValueError, ZeroDivisionError):
            continue
        # Programs that know no resolution write 1 or 0, without a unit.
        if in_unit in (INCH, CENTIMETER) and all(math.isfinite(value) and 1 < value < 1e6 for value in (x, y)):
            return {X_RESOLUTION: _rational(x), Y_RESOLUTION: _rational(y), RESOLUTION_UNIT: in_unit}
    return {}


def _rational(value: float) -> IFDRational:
    return IFDRational(round(value * 1000), 1000)


def _entries(exif: bytes) -> dict[int, Any]:
    """Return the contents of EXIF data that this module wrote."""
    loaded = Image.Exif()
    loaded.load(exif)
    entries = dict(loaded)
    for tag in (EXIF, GPS):
        if tag in entries:
            entries[tag] = dict(loaded.get_ifd(tag))
    if INTEROPERABILITY in entries.get(EXIF, {}):
        entries[EXIF][INTEROPERABILITY] = dict(loaded.get_ifd(INTEROPERABILITY))
    return entries


class _Text(str):
    """Text as Pillow reads it, byte by byte: written as the same bytes, where Pillow would put question marks."""

    __slots__ = ()

    def encode(self, encoding: str = "latin-1", errors: str = "replace") -> bytes:
        return super().encode("latin-1", errors)


def _structure(entries: Mapping[int, Any]) -> ImageFileDirectory_v2:
    directory = ImageFileDirectory_v2(b"II*\0\x08\0\0\0")
    for tag, value in entries.items():
        directory[tag] = _as_bytes(value)
    return directory


def _as_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        return {tag: _as_bytes(item) for tag, item in value.items()}
    return _Text(value) if isinstance(value, str) else value


def _bytes(entries: Mapping[int, Any]) -> bytes:
    file = io.BytesIO()
    _structure(entries).save(file)
    return file.getvalue()
