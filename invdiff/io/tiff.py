"""TIFF files with any number of channels: decoding of what Pillow cannot, and encoding."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invdiff.io.decoded import Decoded, upright, without_premultiplication
from invdiff.io.jpeg_segments import check_segments
from invdiff.io.limits import check_array, check_image
from invdiff.io.metadata import exif_of_tiff, tiff_with_exif
from invdiff.io.tiff_segments import DECOMPRESSED, samples_of

__all__ = ["TIFF_MAGIC", "check_page", "decode_tiff", "encode_tiff", "is_raw_tiff", "taken_page", "tiff_size"]

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE = range(4)  # photometric interpretations
JPEG = 7  # compression
MOST_PAGES = 1000
COLOR_FILTER_ARRAY, LINEAR_RAW = 32803, 34892
DNG_VERSION, SUB_DIRECTORIES = 50706, 330
UNSPECIFIED, PREMULTIPLIED_ALPHA, ALPHA = range(3)  # types of extra samples

# tifffile logs what is unusual in a file; without a handler Python would print that to the terminal.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def tiff_size(content: Any) -> tuple[int, int]:
    """Return the size ``(H, W)`` that the directory of an open file declares, upright."""
    import tifffile

    with tifffile.TiffFile(content, _multifile=False) as file:
        page: Any = file.pages.first
        height, width = page.imagelength, page.imagewidth
        check_image(height, width)
        return (height, width) if _orientation(page) < 5 else (width, height)


def check_page(page: int | None, count: int) -> None:
    """Raise an error if a file of ``count`` pages has no such page, counted from 1."""
    if page is not None and page > count:
        raise ValueError(f"it has {count} page{'s' * (count > 1)}, and --page {page} is asked for")


def taken_page(page: int, count: int) -> str:
    """Return a note on the page that is taken of several."""
    return f"page {page} of {count} is taken"


def decode_tiff(content: Any, number: int | None = None) -> Decoded | None:
    """Decode an open TIFF file, or return ``None`` to leave it to Pillow, which supports more codecs and color spaces.

    Args:
        content: The file.
        number: Page, counted from 1. Default: the only one, or all as the channels of one image.

    Raises:
        ValueError: If it is damaged, or of a kind that is not supported.
    """
    import tifffile

    # OME files may refer to other files for some channels: those are not opened, and zeros are not put in their place.
    with tifffile.TiffFile(content, _multifile=False) as file:
        page, several, notes = _page(file, number), number is not None and len(file.pages) > 1, list[str]()
        check_image(page.imagelength, page.imagewidth, page.samplesperpixel)
        if page.is_tiled:
            check_array((page.tilelength, page.tilewidth, page.samplesperpixel))
        _refuse_raw(page)
        image = page if several else _one_image(file)
        kind, bits = page.photometric, page.bitspersample
        if number is not None and several:
            notes.append(taken_page(number, len(file.pages)))
        samples, extra = page.samplesperpixel, page.extrasamples
        # Only samples declared as alpha are alpha: the fourth band of a satellite image is infrared.
        alphas = [k for k, meaning in enumerate(extra, samples - len(extra)) if meaning in (PREMULTIPLIED_ALPHA, ALPHA)]
        grey_or_rgb = kind in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB)
        plain = image is page and (not grey_or_rgb or samples - len(alphas) == (3 if kind == RGB else 1))
        decompressed = page.compression in DECOMPRESSED
        if isinstance(bits, tuple):
            raise ValueError(f"it holds channels of different depth, {bits} bits")
        if plain and bits <= 8 and not (grey_or_rgb and bits == 8 and decompressed):
            for offset, size in zip(page.dataoffsets, page.databytecounts, strict=False) if page.compression == JPEG else ():
                content.seek(offset)
                check_segments(content.read(size))
            return None
        # Channels stored as pages may each have a color table for display; their values are intensities nevertheless.
        if not grey_or_rgb and (plain or kind != PALETTE):
            raise ValueError(f"it holds {bits}-bit {getattr(kind, 'name', kind)} data, expected gray or RGB")
        if len(alphas) > 1:
            raise ValueError(f"it holds {len(alphas)} alpha channels, expected one at most")
        packed = image is page and decompressed and 8 < bits < 16 and page.sampleformat == 1
        if not packed and (page.dtype is None or 8 * page.dtype.itemsize != bits):
            raise ValueError(f"it holds channels of {bits} bits, expected 8 to 16 bits, or floats")
        values = _values(image, page, content)
        colours = [k for k in range(values.shape[-1]) if k not in alphas]
        values = values[..., colours + alphas] if alphas else values
        if packed:  # to the scale of 16 bits, to the nearest
            values = np.rint(values * (65535 / (2**bits - 1))).astype(np.uint16)
        if alphas and extra[alphas[0] - samples + len(extra)] == PREMULTIPLIED_ALPHA:
            values = without_premultiplication(values)
        if kind == WHITE_IS_ZERO and values.dtype.kind == "u":
            values[..., : len(colours)] = np.iinfo(values.dtype).max - values[..., : len(colours)]
        elif kind == WHITE_IS_ZERO:
            notes.append("the TIFF file of floats declares WhiteIsZero, which is defined for integers: 0 is taken as black")
        icc = page.tags.valueof(34675)
        exif = exif_of_tiff(content, page.offset if several else None)
        return Decoded(upright(values, _orientation(page)), bool(alphas), icc, exif, tuple(notes))


def encode_tiff(path: Path, decoded: Decoded) -> None:
    """Write 8- or 16-bit values: gray or RGB with or without alpha interleaved, other channels in planes of one page."""
    import tifffile

    values, alpha = decoded.values, decoded.alpha
    samples = values.shape[-1]
    colours = samples - alpha
    if colours in (1, 3):
        extra = [ALPHA] * alpha
    else:  # in planes: ImageJ refuses interleaved samples unless gray or RGB
        values, extra = np.moveaxis(values, -1, 0), [UNSPECIFIED] * (colours - 1) + [ALPHA] * alpha
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        values[..., 0] if samples == 1 else values,
        photometric="rgb" if colours == 3 else "minisblack",
        planarconfig=None if samples == 1 else "contig" if colours in (1, 3) else "separate",
        extrasamples=extra or None,
        byteorder="<",
        compression="zlib",
        iccprofile=decoded.icc,
        metadata=None,
    )
    content = file.getvalue()
    path.write_bytes(content if decoded.exif is None else tiff_with_exif(content, decoded.exif))


def _values(image: Any, page: Any, content: Any) -> NDArray[Any]:
    """Return the samples ``(H, W, S)`` of a page, or of the series of pages that are its channels."""
    if image is page and page.compression in DECOMPRESSED:
        return samples_of(page, content)
    if page.compression in DECOMPRESSED[1:]:
        pages = [part if part.index == page.index else part.aspage() for part in image]
        if any((part.shape, part.dtype, part.compression) != (page.shape, page.dtype, page.compression) for part in pages):
            raise ValueError("its pages differ in size, type or compression")
        return np.concatenate([samples_of(part, content) for part in pages], axis=-1)
    try:
        values: NDArray[Any] = image.asarray()
        axes = image.axes
    except (ImportError, KeyError, ValueError) as error:  # tifffile needs an extra for most codecs
        if not isinstance(error, ImportError) and "imagecodecs" not in str(error):
            raise
        name = getattr(page.compression, "name", page.compression)
        raise ValueError(
            f"{name} compression is not supported here; install imagecodecs (pip install imagecodecs), or save it uncompressed"
        ) from error
    values = np.moveaxis(values, (axes.index("Y"), axes.index("X")), (0, 1))
    return values.reshape(*values.shape[:2], -1)


def _page(file: Any, number: int | None) -> Any:
    """Return the first page, or the one with this number."""
    if number is None:
        return file.pages.first
    count = len(file.pages)
    if count > MOST_PAGES:
        raise ValueError(f"it holds {count} pages, expected at most {MOST_PAGES}")
    check_page(number, count)
    return file.pages[number - 1].aspage()


def is_raw_tiff(content: Any) -> bool:
    """Return whether an open file is a TIFF-based RAW file of a camera."""
    import tifffile

    try:
        with tifffile.TiffFile(content, _multifile=False) as file:
            return _is_raw(file.pages.first)
    except Exception:  # damaged: no kind can be told
        return False


def _is_raw(page: Any) -> bool:
    raw = page.photometric in (COLOR_FILTER_ARRAY, LINEAR_RAW) or DNG_VERSION in page.tags
    return raw or bool(page.is_reduced and SUB_DIRECTORIES in page.tags)  # the first image of most is a thumbnail


def _refuse_raw(page: Any) -> None:
    if _is_raw(page):
        raise ValueError("it is a RAW camera file, which has no colors yet: --problem demosaic develops it")


def _one_image(file: Any) -> Any:
    """Return the page that is the image, or the series of pages that are its channels; raise if it is neither."""
    pages = len(file.pages)
    if pages > MOST_PAGES:  # each takes time to look at
        raise ValueError(f"it holds {pages} pages, expected one image")
    series = file.series
    if pages == 1 and not series:
        return file.pages.first
    image = series[0]
    channels = dict(zip(image.axes, image.shape, strict=True)).get("C", 1)
    several = pages > 1 and (len(series) > 1 or pages != channels)
    if several or set(image.axes) not in (set("YX"), set("YXS"), set("CYX")):
        found = " and ".join(f"{part.axes} {' x '.join(map(str, part.shape))}" for part in series[:2])
        raise ValueError(
            f"it holds {pages} page{'s' * (pages > 1)} ({found}), expected one image; take one by --page N, or save its "
            "channels with axes='CYX', or as a (C, H, W) .npy array"
        )
    check_image(file.pages.first.imagelength, file.pages.first.imagewidth, channels)
    if any(part is None for part in image):
        raise ValueError(f"some of its {channels} channels are not in this file")
    return image if "C" in image.axes else file.pages.first


def _orientation(page: Any) -> int:
    orientation = page.tags.valueof(274, 1)
    return orientation if orientation in range(1, 9) else 1
