"""FITS images and cubes, by astropy: values in physical units, NaN and BLANK where nothing was measured.

The first row of the array is the lowest one of the picture. Results keep all headers, and the world coordinates are those of
their pixels.
"""

from __future__ import annotations

import contextlib
import math
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invdiff.formats.format import Array, Format, Grid, Scan, Stack, Written
from invdiff.io.limits import check_image

__all__ = ["FITS"]

MAGIC = b"SIMPLE  ="
COMPRESSED = (b"\x1f\x8b",)
STORAGE = ("BSCALE", "BZERO", "BLANK", "CHECKSUM", "DATASUM", "DATAMIN", "DATAMAX")  # what belongs to the old values
WHO = ("OBSERVER", "AUTHOR", "OPERATOR", "PI-COI", "PROPOSER", "PI_NAME", "EMAIL", "COMMENT", "HISTORY")


@dataclass(frozen=True)
class Header:
    """What results carry through.

    Attributes:
        primary: Header of the first unit of the file.
        image: Header of the image.
        further: Sides beyond the rows and columns.
        rows: Number of rows.
        extension: Whether the image is not in the first unit.
    """

    primary: Any
    image: Any
    further: tuple[int, ...]
    rows: int
    extension: bool


class FITS(Format):
    """The first image of a file: a picture, or a cube plane by plane."""

    name = "FITS"
    extra = "astronomy"
    modules = ("astropy",)
    suffixes = (".fits", ".fit", ".fts", ".fits.gz", ".fz")
    suffix = ".fits"
    reads = "images and cubes, compressed too; NaN and BLANK are unmeasured"
    writes = "float32 images with all headers and world coordinates"

    def recognizes(self, head: bytes, path: Path) -> bool:
        if head.startswith(COMPRESSED):
            with contextlib.suppress(zlib.error):
                head = zlib.decompressobj(31).decompress(head, 1024)
        return head.startswith(MAGIC)

    def open(self, path: Path) -> Stack | Scan:
        with _units(path) as units:
            images = [k for k, unit in enumerate(units) if unit.is_image and len(unit.shape) >= 2]
            if not images:
                kinds = ", ".join(type(unit).__name__ for unit in units)
                raise ValueError(f"it holds no image of two or more axes, but {kinds}")
            place = images[0]
            unit = units[place]
            *further, height, width = unit.shape
            check_image(height, width)
            if not math.prod(further):
                raise ValueError(f"its image is empty: {unit.shape}")
            primary, header = units[0].header.copy(), unit.header.copy()
        notes: tuple[str, ...] = ()
        if len(images) > 1:
            notes = (f"it holds {len(images)} images, of which the first is taken (extension {place})",)

        def picture(k: int) -> Array:
            with _units(path) as units:
                where = (*np.unravel_index(k, further), slice(None), slice(None)) if further else (slice(None), slice(None))
                found = np.array(units[place].section[where], dtype=np.float64)
            return found.reshape(1, height, width)[:, ::-1].copy()

        return Stack(
            (math.prod(further), 1, height, width),
            picture,
            axis="plane",
            unit=str(header.get("BUNIT", "")).strip(),
            header=Header(primary, header, tuple(further), height, place > 0),
            notes=notes,
        )

    def write(self, path: Path, pictures: Iterable[NDArray[np.float32]], of: Stack | Scan, written: Written) -> None:
        from astropy.io import fits

        header: Header = of.header
        values: NDArray[np.float32] = np.stack([each[0, ::-1] for each in pictures])
        whole = len(values) == math.prod(header.further)
        values = values.reshape(*header.further, *values.shape[-2:]) if whole else values
        values = values[0] if values.ndim == 3 and not header.further else values
        image, primary = header.image.copy(), header.primary.copy()
        for name in STORAGE:
            image.remove(name, ignore_missing=True)
        _move(image, written.grid, values.shape[-2], header.rows)
        if not whole:
            _cut(image, header.further, written.numbers)
        for each in (image, primary) if written.anonymize else ():
            for name in WHO:
                each.remove(name, ignore_missing=True, remove_all=True)
        image.add_history(f"{written.command}: {written.what} of samples of the posterior distribution")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cards that are not as the standard has them
            if header.extension:
                units: list[Any] = [fits.PrimaryHDU(header=primary), fits.ImageHDU(values, image)]
            else:
                units = [fits.PrimaryHDU(values, image)]
            fits.HDUList(units).writeto(path, output_verify="silentfix")


def _move(header: Any, grid: Grid, height: int, rows: int) -> None:
    """Set the world coordinates of pixels on another grid; a pixel of FITS has its center at whole numbers, from 1."""
    below = height / grid.scale - rows - grid.top  # rows that the result adds below, where the array begins
    for letter in ("", *ascii_uppercase):  # of alternative coordinates
        if not any(f"{name}1{letter}" in header for name in ("CTYPE", "CRVAL", "CRPIX", "CDELT")):
            continue
        matrix = [name for name in header if re.fullmatch(rf"CD\d+_[12]{letter}", name)]
        for axis, added in ((1, grid.left), (2, below)):
            if added or grid.scale != 1:
                name = f"CRPIX{axis}{letter}"  # 0 and the spacing 1 if they are not stated
                header[name] = (header.get(name, 0.0) - 0.5 + added) * grid.scale + 0.5
            if grid.scale != 1 and not matrix:
                name = f"CDELT{axis}{letter}"
                header[name] = header.get(name, 1.0) / grid.scale
        for name in matrix:
            header[name] /= grid.scale
    for name in list(header):  # distortions, polynomials of pixels
        found = re.fullmatch(r"(?:A|B|AP|BP)_(\d)_(\d)", name)
        if found:
            header[name] *= grid.scale ** (1 - int(found[1]) - int(found[2]))


def _cut(header: Any, further: tuple[int, ...], numbers: Sequence[int]) -> None:
    """Set the world coordinates of some planes of a cube, which are the third axis of a result."""
    first = np.unravel_index(numbers[0], further)
    for letter in ("", *ascii_uppercase):
        if f"CRVAL3{letter}" in header or f"CRPIX3{letter}" in header:
            header[f"CRPIX3{letter}"] = header.get(f"CRPIX3{letter}", 0.0) - int(first[-1])
        for k, start in enumerate(first[-2::-1], 4):
            if f"CRVAL{k}{letter}" in header or f"CRPIX{k}{letter}" in header:
                header[f"CRPIX{k}{letter}"] = header.get(f"CRPIX{k}{letter}", 0.0) - int(start)


@contextlib.contextmanager
def _units(path: Path) -> Iterator[Any]:
    """Yield the units of an open file; all that a damaged file brings about is a ``ValueError``."""
    from astropy.io import fits

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with path.open("rb") as file, fits.open(file, memmap=False, lazy_load_hdus=True) as units:
                yield units
    except (
        OSError,
        EOFError,
        TypeError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        zlib.error,
        fits.VerifyError,
    ) as error:
        if isinstance(error, PermissionError | FileNotFoundError):
            raise
        if type(error) is ValueError and error.__cause__ is None and str(error).startswith("it "):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(f"it is damaged or truncated ({reason:.120})") from error
