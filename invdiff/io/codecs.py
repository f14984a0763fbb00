"""Read and write the integers in image files, with the library that keeps all bits of a format.

Pillow handles files with 8 bits per channel, but truncates color images with more bits: those of PNG go through kornia_rs
(:mod:`invdiff.io.png`). TIFF files of gray, RGB and other channels of any bit depth go through :mod:`invdiff.io.tiff`.
"""

from __future__ import annotations

import mmap
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from invdiff.io.decoded import Decoded, upright
from invdiff.io.heif import coding_of
from invdiff.io.jpeg_segments import check_segments
from invdiff.io.kinds import HEAD, kind_of
from invdiff.io.limits import LARGEST_IMAGE, check_image
from invdiff.io.metadata import exif_of, orientation_of, pixels_per_inch, sized
from invdiff.io.png import decode_deep_png, encode_deep_png
from invdiff.io.quiet import without_stderr
from invdiff.io.tiff import TIFF_MAGIC, check_page, decode_tiff, encode_tiff, taken_page, tiff_size

__all__ = [
    "READABLE",
    "Decoded",
    "chroma_of",
    "declared_orientation",
    "declared_size",
    "decode",
    "encode",
    "first_line",
    "format_of",
    "is_image",
]

READABLE = "a PNG, JPEG, TIFF, WebP, AVIF, HEIC or BMP image or a .npy array"
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
PNG_MAGIC, JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
WORDS = re.compile(r"[A-Za-z][^{}]{3,200} [^{}]{1,200}$")
LARGEST_EXIF = 65533 - 6  # bytes in a JPEG segment, behind its mark


def decode(path: Path, *, page: int | None = None) -> Decoded:
    """Decode an image file: TIFF with any number of channels, other formats with gray or RGB (HEIF by pillow-heif).

    The size that the file declares is checked before the pixels are decoded.

    Args:
        path: The file.
        page: Page of a TIFF file of several pages, counted from 1.

    Raises:
        ValueError: If the file is damaged, too large, not an image, or of an unsupported kind.
    """
    with _opened(path) as (file, head):
        if head.startswith(TIFF_MAGIC):
            decoded = decode_tiff(file, page)
            if decoded is not None:
                return decoded._replace(format="TIFF")
            file.seek(0)
        with _by_pillow(file, head) as image:
            frames = getattr(image, "n_frames", 1)
            several, notes = image.format == "TIFF" and frames > 1, tuple[str, ...]()
            check_page(page, frames if image.format == "TIFF" else 1)
            if several and page is not None:
                image.seek(page - 1)
                notes = (taken_page(page, frames),)
            elif frames > 1 and format_of(image) != "JPEG":
                raise ValueError(f"it holds {frames} frames or pages, expected one")
            if _is_deep_png(head):
                place = file.tell()
                file.seek(0)
                content = file.read()
                file.seek(place)
                return decode_deep_png(image, content)._replace(format="PNG")
            found = _decode_with_pillow(image, head)
            return found._replace(format=format_of(image), notes=(*notes, *found.notes))


def declared_size(path: Path) -> tuple[int, int]:
    """Return the size ``(H, W)`` that an image file declares, upright, without decoding its pixels.

    Raises:
        ValueError: If the file is damaged, too large, not an image, or of an unsupported kind.
    """
    with _opened(path) as (file, head):
        if head.startswith(TIFF_MAGIC):
            return tiff_size(file)
        with _by_pillow(file, head) as image:
            height, width = image.height, image.width
            return (height, width) if orientation_of(image) < 5 else (width, height)


def declared_orientation(path: Path) -> int:
    """Return the EXIF orientation, 1 to 8, that a PNG, JPEG, WebP or BMP file declares.

    Raises:
        ValueError: If the file is damaged, too large, not an image, or of an unsupported kind.
    """
    with _opened(path) as (file, head), _by_pillow(file, head) as image:
        return orientation_of(image)


def format_of(image: Image.Image) -> str:
    """Return the format of the file that an image was opened from; empty if there is none."""
    return "JPEG" if image.format == "MPO" else image.format or ""  # MPO: a JPEG whose further frames are camera previews


def encode(path: Path, decoded: Decoded, *, quality: int = 95) -> None:
    """Write 8- or 16-bit values in the format given by the suffix of ``path``; all but TIFF hold gray or RGB only."""
    values, icc, exif = decoded.values, decoded.icc, decoded.exif
    suffix, channels = path.suffix.lower(), values.shape[-1]
    if exif is not None:
        exif = sized(exif, *values.shape[:2])
        decoded = decoded._replace(exif=exif)
    if suffix in (".tif", ".tiff"):
        encode_tiff(path, decoded)
    elif values.dtype == np.uint16:
        encode_deep_png(path, decoded)
    else:
        options: dict[str, Any] = {} if icc is None or suffix == ".bmp" else {"icc_profile": icc}
        if exif is not None and suffix != ".bmp":
            if len(exif) <= LARGEST_EXIF:
                options |= {"exif": b"Exif\0\0" + exif}
            resolution = pixels_per_inch(exif)
            if resolution is not None and suffix != ".webp":
                options |= {"dpi": tuple(round(value, 4) for value in resolution)}
        if suffix in (".jpg", ".jpeg"):
            options |= {"quality": quality, "subsampling": 0}
        elif suffix == ".webp":
            options |= {"lossless": True, "exact": True}
        Image.fromarray(values[..., 0] if channels == 1 else values).save(path, **options)


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, for use inside another message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], bytes]]:
    """Yield an open file and its first bytes; errors name the file, and warnings of libraries are not shown."""
    head = b""
    try:
        # An open file instead of its name: Pillow maps a named file into memory, and then scrambles uncompressed TIFF
        # images whose orientation swaps rows and columns.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Large images and unusual metadata are accepted.
            head = file.read(HEAD)
            file.seek(0)
            kind = kind_of(head)
            if kind is not None:
                raise UnidentifiedImageError
            yield file, head
    except PermissionError:
        raise
    except UnidentifiedImageError as error:
        reason = kind_of(head) or f"is damaged or not an image; expected {READABLE}"
        raise ValueError(f"{path}: {reason}.") from error
    except Image.DecompressionBombError as error:  # the bound of Pillow, which is higher
        raise ValueError(
            f"{path}: cannot be read as an image: it declares more than {LARGEST_IMAGE} pixels: crop or shrink it."
        ) from error
    except MemoryError as error:
        raise ValueError(f"{path}: there is not enough memory to read it as an image.") from error
    except Exception as error:  # every decoder raises its own exceptions for damaged files
        reason = first_line(error)
        if not WORDS.match(reason):  # such as a key or a table
            reason = "its data are damaged"
        raise ValueError(f"{path}: cannot be read as an image: {reason}.") from error


@contextmanager
def _by_pillow(file: IO[bytes], head: bytes) -> Iterator[Image.Image]:
    """Yield an image whose pixels are not decoded yet, and whose size is accepted."""
    if head.startswith(JPEG_MAGIC):
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            check_segments(content)
    coding = coding_of(head)
    with Image.open(file, formats=FORMATS if coding is None else (coding,)) as image:
        check_image(image.height, image.width)
        yield image


def is_image(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of a format that is read."""
    return head.startswith((PNG_MAGIC, JPEG_MAGIC, *TIFF_MAGIC, b"BM")) or (
        (head[:4], head[8:12]) == (b"RIFF", b"WEBP") or coding_of(head) is not None
    )


def _is_deep_png(head: bytes) -> bool:
    return head.startswith(PNG_MAGIC) and head[24] == 16


def _decode_with_pillow(image: Image.Image, head: bytes) -> Decoded:
    with without_stderr() if image.format == "TIFF" else nullcontext():
        image.load()
    orientation, exif = orientation_of(image), exif_of(image)
    if image.mode.startswith("I;16"):
        values = np.asarray(image)[..., None]
        return Decoded(upright(values, orientation), alpha=False, icc=image.info.get("icc_profile"), exif=exif)
    if head.startswith(PNG_MAGIC) and head[24] in (2, 4) and image.mode == "L" and "transparency" in image.info:
        image.info["transparency"] *= 255 // (2 ** head[24] - 1)  # Pillow scales the pixels to 8 bits, but not this value
    grey = image.mode in ("1", "L", "LA", "La")
    # The profile of a CMYK or Lab image does not describe the RGB values converted from it.
    icc = image.info.get("icc_profile") if grey or image.mode in ("RGB", "RGBA", "P", "PA") else None
    alpha = image.has_transparency_data
    values = np.asarray(image.convert(("L" if grey else "RGB") + ("A" if alpha else "")))
    values = upright(values.reshape(*values.shape[:2], -1), orientation)
    depth = image.info.get("bit_depth", 8)  # of HEIF files, which are decoded to 8 bits
    notes = (f"8 of its {depth} bits per channel are read",) if depth > 8 else ()
    return Decoded(values, alpha, icc, exif, notes, chroma=chroma_of(image))


def chroma_of(image: Image.Image) -> tuple[int, int] | None:
    """Return the chroma subsampling of an open JPEG file, as in :class:`invdiff.io.picture.Picture`; ``None`` for others."""
    layers: Any = getattr(image, "layer", None)  # of each component: name, samples per unit in width and height, table
    if image.format not in ("JPEG", "MPO") or not layers:
        return None
    across, down = ([component[place] for component in layers] for place in (1, 2))
    return max(across) // min(across), max(down) // min(down)
