r"""RAW files of cameras behind a Bayer filter, by LibRaw: the mosaic in units of the sensor, and what the camera says of it.

The mosaic is read; it is developed by ``--problem demosaic``, whose results are written as 16-bit TIFF files in a color space.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invdiff.formats.color_spaces import ColorSpace
from invdiff.formats.format import Array, Format, Scan, Stack, Written
from invdiff.io.decoded import Decoded
from invdiff.io.limits import check_image
from invdiff.io.metadata import exif_of_tiff, stripped
from invdiff.io.quiet import without_stderr
from invdiff.io.tiff import TIFF_MAGIC, encode_tiff, is_raw_tiff

__all__ = ["Camera", "CameraRAW", "Developed"]

STARTS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"\x00MRM", b"FOVb")
NOISE_PROFILE = 51041  # tag of DNG
TURNS = {0: 0, 3: 2, 5: 1, 6: 3}  # quarter turns counterclockwise, by the flip of LibRaw
WHITE = 0.05  # distance from 1 of the sums of the rows of a color matrix, which keeps white


@dataclass(frozen=True, eq=False)
class Camera:
    r"""What a camera says of a mosaic.

    Light on the 0..1 scale is :math:`v = (y - b) / (w - b)` with the levels of black :math:`b` and white :math:`w`.

    Attributes:
        pattern: Colors of the top left 2 x 2 pixels, row by row, such as ``RGGB``.
        black: Levels of black of these four pixels, in the units of the sensor.
        white: Level at which pixels are saturated.
        gains: White balance as shot: factors of red, green and blue, the smallest of them 1.
        to_srgb: Matrix ``(3, 3)`` from white-balanced RGB of the camera to linear sRGB; its rows have sum 1.
        turns: Quarter turns counterclockwise that turn the picture upright.
        noise: :math:`S` and :math:`O` of the noise of red, green and blue, whose variance is :math:`S v + O`
            (``NoiseProfile`` of DNG); ``None``: not in the file.
        exif: EXIF data for results.
        notes: What was taken for granted.
    """

    pattern: str
    black: tuple[float, float, float, float]
    white: float
    gains: tuple[float, float, float]
    to_srgb: Array
    turns: int = 0
    noise: tuple[tuple[float, float], ...] | None = None
    exif: bytes | None = None
    notes: tuple[str, ...] = ()

    def colors(self, height: int, width: int) -> NDArray[np.intp]:
        """Return the channel that every pixel measures, ``(H, W)``: 0, 1, 2 for red, green, blue."""
        return tiled(["RGB".index(color) for color in self.pattern], height, width).astype(np.intp)

    def light(self, mosaic: Array) -> Array:
        """Return a mosaic ``(H, W)`` as light on the 0..1 scale; noise exceeds it below, saturated pixels are at 1."""
        black = tiled(self.black, *mosaic.shape)
        return (mosaic - black) / (self.white - black)


@dataclass(frozen=True, eq=False)
class Developed:
    """The header of results: their color space, and the EXIF data of the file."""

    space: ColorSpace
    exif: bytes | None


class CameraRAW(Format):
    """DNG files, and those of the makers of cameras."""

    name = "camera RAW"
    extra = "raw"
    modules = ("rawpy",)
    suffixes = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".mrw", ".kdc", ".crw", ".nrw")
    suffix = ".tif"
    reads = "the mosaic of a Bayer filter with levels, white balance, color matrix and noise: --problem demosaic"
    writes = "16-bit TIFF in a color space, with its profile"

    def recognizes(self, head: bytes, path: Path) -> bool:
        if head.startswith(STARTS) or head[4:12] == b"ftypcrx ":
            return True
        if not head.startswith(TIFF_MAGIC) or head[128:132] == b"DICM":
            return False
        with path.open("rb") as file:
            return is_raw_tiff(file)

    def open(self, path: Path) -> Stack | Scan:
        with _opened(path) as raw:
            mosaic, camera = _read(raw, path)
        values = mosaic.astype(np.float64)[None]
        height, width = mosaic.shape
        return Stack(
            (1, 1, height, width),
            lambda k: values,
            axis="picture",
            unit="units of the sensor",
            window=(float(np.mean(camera.black)), camera.white),
            header=camera,
            notes=camera.notes,
            calibrated=True,
            problems=("demosaic",),
        )

    def write(self, path: Path, pictures: Iterable[NDArray[np.float32]], of: Stack | Scan, written: Written) -> None:
        header: Developed = of.header
        (picture,) = pictures
        values = np.rint(65535 * np.asarray(picture, dtype=np.float64).clip(0, 1)).astype(np.uint16)
        exif = stripped(header.exif) if written.anonymize else header.exif
        encode_tiff(path, Decoded(values.transpose(1, 2, 0), False, header.space.icc(), exif))


def tiled(tile: Any, height: int, width: int) -> Array:
    """Return four values of a 2 x 2 tile, row by row, repeated over ``(H, W)``."""
    square = np.asarray(tile, dtype=np.float64).reshape(2, 2)
    repeated: Array = np.tile(square, ((height + 1) // 2, (width + 1) // 2))[:height, :width]
    return repeated


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Yield an open file whose pixels are not read yet."""
    import rawpy

    try:
        with without_stderr(), rawpy.RawPy() as raw:  # LibRaw prints what is wrong with a damaged file
            raw.open_file(str(path))
            yield raw
    except rawpy.LibRawError as error:
        kind = (
            "is not supported by LibRaw" if isinstance(error, rawpy.LibRawFileUnsupportedError) else "is damaged or truncated"
        )
        raise ValueError(f"it {kind} ({_words(error)})") from error


def _read(raw: Any, path: Path) -> tuple[NDArray[np.uint16], Camera]:
    """Return the visible mosaic and what the camera says of it."""
    import rawpy

    check_image(raw.sizes.raw_height, raw.sizes.raw_width)
    raw.unpack()
    names = raw.color_desc.decode("ascii", "replace")
    if raw.raw_type != rawpy.RawType.Flat:
        raise ValueError(
            "it holds pixels of several colors (a linear DNG or a sensor of layers), expected the mosaic of a Bayer filter"
        )
    if raw.raw_pattern is None or raw.raw_pattern.shape != (2, 2) or not set(names) <= set("RGB"):
        shape = "none" if raw.raw_pattern is None else " x ".join(map(str, raw.raw_pattern.shape))
        raise ValueError(
            f"its color filter ({names}, tile {shape}) is not that of Bayer, such as X-Trans, which is not supported"
        )
    mosaic = np.array(raw.raw_image_visible)
    if min(mosaic.shape) < 2:
        raise ValueError(f"its mosaic of {mosaic.shape[1]} x {mosaic.shape[0]} pixels is smaller than a tile of the filter")
    tile = raw.raw_colors_visible[:2, :2].ravel()
    pattern = "".join(names[color] for color in tile)
    if sorted(pattern) != ["B", "G", "G", "R"]:
        raise ValueError(f"its color filter is {pattern}, expected one red, two green and one blue pixel in a tile")
    levels = raw.black_level_per_channel
    black, white = tuple(float(levels[color]) for color in tile), float(raw.white_level)
    if not max(black) < white:
        raise ValueError(f"its levels of black {levels} are not below that of white, {white:g}")
    gains, notes = _gains(raw)
    matrix, more = _matrix(raw)
    noise, exif = _of_tags(path, pattern)
    turns = TURNS.get(raw.sizes.flip, 0)
    return mosaic, Camera(pattern, black, white, gains, matrix, turns, noise, exif, (*notes, *more))  # type: ignore[arg-type]


def _gains(raw: Any) -> tuple[tuple[float, float, float], tuple[str, ...]]:
    """Return the factors of the white balance, and a note if it is not the one as shot."""
    for found, words in ((raw.camera_whitebalance, ""), (raw.daylight_whitebalance, "of daylight, ")):
        factors = np.array(found[:3], dtype=np.float64)
        if np.isfinite(factors).all() and (factors > 0).all():
            red, green, blue = (float(factor) for factor in factors / factors.min())
            note = (f"the white balance is that {words}since the file states none as shot",) if words else ()
            return (red, green, blue), note
    return (1.0, 1.0, 1.0), ("the file states no white balance: none is applied",)


def _matrix(raw: Any) -> tuple[Array, tuple[str, ...]]:
    """Return the matrix from white-balanced RGB of the camera to linear sRGB, which LibRaw makes of that from XYZ."""
    matrix = np.array(raw.color_matrix, dtype=np.float64)[:, :3]
    if not np.isfinite(matrix).all() or np.abs(matrix.sum(1) - 1).max() > WHITE:
        return np.eye(3), ("the file states no color matrix: its RGB is taken as linear sRGB",)
    return matrix, ()


def _of_tags(path: Path, pattern: str) -> tuple[tuple[tuple[float, float], ...] | None, bytes | None]:
    """Return the noise profile and the EXIF data of a file that is a TIFF file; ``None`` where it has none."""
    import tifffile

    with path.open("rb") as file:
        if not file.read(4).startswith(TIFF_MAGIC):
            return None, None
        exif = exif_of_tiff(file)
        file.seek(0)
        try:
            with tifffile.TiffFile(file, _multifile=False) as tiff:
                pages: list[Any] = [tiff.pages.first]
                pages += list(getattr(pages[0], "pages", None) or [])
                found = next((page.tags.valueof(NOISE_PROFILE) for page in pages if NOISE_PROFILE in page.tags), None)
        except Exception:  # the mosaic has been read: its tags alone are damaged
            return None, exif
    numbers = np.array(found if found is not None else (), dtype=np.float64)
    if numbers.size not in (2, 6) or not np.isfinite(numbers).all() or (numbers < 0).any() or not numbers[::2].all():
        return None, exif
    pairs = [(float(s), float(o)) for s, o in numbers.reshape(-1, 2)]
    return tuple(pairs * (3 // len(pairs))), exif


def _words(error: Exception) -> str:
    first = error.args[0] if error.args else type(error).__name__
    return first.decode("ascii", "replace") if isinstance(first, bytes) else str(first)
