"""TIFF stacks: several pages of one size, such as slices, time steps or frames; by tifffile.

Pages are read by the reader of TIFF images, :mod:`invdiff.io.tiff`. Results keep the type of the values (maps of the standard
deviation are floats), the resolution, and the spacing and axes of ImageJ and OME.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invdiff.formats.format import Array, Format, Scan, Stack, Written
from invdiff.io.codecs import decode
from invdiff.io.tiff import TIFF_MAGIC

__all__ = ["TIFFStack"]

SUB_DIRECTORIES, DNG_VERSION = 330, 50706  # tags of camera files, whose pages are previews
LARGEST_CLASSIC = 2**32 - 2**25  # bytes of pixels in a file that is not a BigTIFF
AXES = ("Z", "T", "Q", "I")  # of slices, times, and others that tifffile does not know
SIZES = ("PhysicalSizeX", "PhysicalSizeXUnit", "PhysicalSizeY", "PhysicalSizeYUnit", "PhysicalSizeZ", "PhysicalSizeZUnit")


@dataclass(frozen=True)
class Header:
    """What results carry through.

    Attributes:
        axes: Axes of the series before rows and columns.
        sides: Their lengths.
        dtype: Type of the values.
        imagej: Metadata of ImageJ.
        sizes: Physical sizes of OME.
        resolution: Pixels per unit along x and y, and the unit, as the tags have them.
    """

    axes: str
    sides: tuple[int, ...]
    dtype: np.dtype[Any]
    imagej: dict[str, Any] | None
    sizes: dict[str, Any] | None
    resolution: tuple[Any, Any, int] | None


class TIFFStack(Format):
    """Pages of one size and type."""

    name = "TIFF stack"
    modules = ("tifffile",)
    suffixes = (".tif", ".tiff")
    suffix = ".tif"
    reads = "pages of one size: slices, times, frames; ImageJ and OME"
    writes = "stacks of the same type and spacing; std as floats"

    def recognizes(self, head: bytes, path: Path) -> bool:
        import tifffile

        if not head.startswith(TIFF_MAGIC):
            return False
        try:
            with tifffile.TiffFile(path, _multifile=False) as file:
                return _series(file) is not None
        except Exception:  # damaged: the reader of images says so
            return False

    def open(self, path: Path) -> Stack | Scan:
        import tifffile

        with tifffile.TiffFile(path, _multifile=False) as file:
            series: Any = _series(file)
            page: Any = file.pages.first
            imagej = dict(file.imagej_metadata) if file.is_imagej and file.imagej_metadata else None
            sizes = _sizes(tifffile.xml2dict(file.ome_metadata)) if file.is_ome and file.ome_metadata else None
            tags = [page.tags.valueof(tag) for tag in (282, 283, 296)]
            stacked = tuple(int(side) for side in series.shape[: series.axes.index("Y")])
            count, dtype, height, width = len(file.pages), np.dtype(page.dtype), page.imagelength, page.imagewidth
        first = decode(path, page=1)
        channels = first.values.shape[-1] - first.alpha
        resolution = None if tags[0] is None or tags[1] is None else (_ratio(tags[0]), _ratio(tags[1]), int(tags[2] or 1))

        def picture(k: int) -> Array:
            decoded = decode(path, page=k + 1)
            values = decoded.values[..., : decoded.values.shape[-1] - decoded.alpha]
            if values.shape != (*first.values.shape[:2], channels):
                raise ValueError(
                    f"page {k + 1} differs in size from the first one: {values.shape}, expected {(height, width, channels)}"
                )
            return np.moveaxis(values, -1, 0).astype(np.float64)

        kind = first.values.dtype if first.values.dtype.kind == "u" else dtype
        ends = np.iinfo(kind) if kind.kind in "iu" else None
        return Stack(
            (count, channels, *first.values.shape[:2]),
            picture,
            axis="page",
            window=(0.0, 255.0) if kind == np.uint8 else None,
            limits=(-np.inf, np.inf) if ends is None else (float(ends.min), float(ends.max)),
            header=Header(series.axes.partition("Y")[0], stacked, kind, imagej, sizes, resolution),
        )

    def write(self, path: Path, pictures: Iterable[NDArray[np.float32]], of: Stack | Scan, written: Written) -> None:
        import tifffile

        header: Header = of.header
        dtype = np.dtype(np.float32) if written.what == "standard deviation" else header.dtype
        pages = iter(pictures)
        first = next(pages)
        count, (channels, height, width) = len(written.numbers), first.shape

        def stored() -> Iterator[NDArray[Any]]:
            for each in (first, *pages) if count == 1 else _chain(first, pages):
                values = np.moveaxis(each, 0, -1)
                values = values[..., 0] if channels == 1 else values
                yield _whole(values, dtype) if dtype.kind in "ui" else values.astype(dtype)

        axis = header.axes[-1:] if header.axes[-1:] in AXES else "Q"
        axes, sides = (axis if axis in "ZT" else "Z"), tuple[int, ...]((count,))
        if set(header.axes) <= {"T", "Z"} and math.prod(header.sides) == count:  # times of volumes
            axes, sides = header.axes, header.sides
        samples = "S" if channels > 1 else ""
        size = count * height * width * channels * dtype.itemsize
        kinds = (np.uint8, np.uint16, np.float32) if channels == 1 else (np.uint8,)  # that ImageJ has
        imagej = header.imagej is not None and dtype in kinds and size < LARGEST_CLASSIC
        options: dict[str, Any] = {"metadata": None}
        if header.imagej is not None and imagej:
            kept = {name: header.imagej[name] for name in ("spacing", "unit", "finterval", "fps") if name in header.imagej}
            options = {"metadata": {**kept, "axes": f"{axes}YX{samples}"}}
        elif header.sizes is not None:
            scaled = {
                name: value / written.grid.scale if name.endswith(("X", "Y")) else value for name, value in header.sizes.items()
            }
            identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{written.group} {written.what}")  # equal runs write equal files
            options = {"metadata": {**scaled, "UUID": str(identity), "axes": f"{axes}YX{samples}"}}
        if header.resolution is not None:
            across, down, unit = header.resolution
            options |= {"resolution": (across * written.grid.scale, down * written.grid.scale), "resolutionunit": unit}
        with tifffile.TiffWriter(
            path, imagej=imagej, ome=header.sizes is not None, bigtiff=not imagej and size >= LARGEST_CLASSIC
        ) as file:
            file.write(
                stored(),
                shape=(*sides, height, width, *((channels,) if channels > 1 else ())),
                dtype=dtype,
                photometric="rgb" if channels == 3 else "minisblack",
                software=written.command,
                **options,
            )


def _whole(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the nearest integers of a type; float32 does not hold its ends exactly."""
    ends = np.iinfo(dtype)
    return np.rint(values.astype(np.float64)).clip(ends.min, ends.max).astype(dtype)


def _chain(first: NDArray[Any], rest: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    yield first
    yield from rest


def _series(file: Any) -> Any:
    """Return the series of all pages of a file; ``None`` if it is one image, or the pages are of several kinds."""
    if len(file.pages) < 2:
        return None
    page = file.pages.first
    if DNG_VERSION in page.tags or SUB_DIRECTORIES in page.tags or len(file.series) != 1:
        return None
    series = file.series[0]
    stacked = series.axes.partition("Y")[0]
    channels = {"C", "S"} & set(stacked)
    return series if stacked and not channels and len(series) == len(file.pages) else None


def _ratio(value: Any) -> float:
    above, below = value
    return float(above) / float(below) if below else 1.0


def _sizes(described: Any) -> dict[str, Any] | None:
    """Return the physical sizes in OME metadata."""
    image = described.get("OME", {}).get("Image", {})
    pixels = (image[0] if isinstance(image, list) else image).get("Pixels", {})
    found = {name: pixels[name] for name in SIZES if name in pixels}
    return {name: value if name.endswith("Unit") else float(value) for name, value in found.items()}
