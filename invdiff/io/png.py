"""PNG files with 16 bits per channel, which Pillow truncates, and metadata of those."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from invdiff.io.decoded import Decoded, upright
from invdiff.io.metadata import exif_of, orientation_of, pixels_per_inch

__all__ = ["decode_deep_png", "encode_deep_png"]

GREY, COLOUR, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 4, 6
INCHES = 0.0254  # in meters


def decode_deep_png(image: Image.Image, content: bytes) -> Decoded:
    """Decode a file of 16 bits per channel.

    Args:
        image: The file, opened by Pillow.
        content: The bytes of the file.
    """
    colour_type = content[25]
    if colour_type in (GREY, GREY_ALPHA):
        values = _pairs(content, 2 if colour_type == GREY_ALPHA else 1)
    else:
        values = _by_kornia(content, (image.height, image.width), "rgba" if colour_type == COLOUR_ALPHA else "rgb")
    alpha = colour_type in (GREY_ALPHA, COLOUR_ALPHA)
    transparent = image.info.get("transparency")  # one color, whose pixels are transparent
    if transparent is not None and not alpha:
        opaque = (values != np.atleast_1d(transparent)).any(-1, keepdims=True)
        values, alpha = np.concatenate([values, np.where(opaque, np.uint16(65535), np.uint16(0))], axis=-1), True
    return Decoded(upright(values, orientation_of(image)), alpha, image.info.get("icc_profile"), exif_of(image))


def encode_deep_png(path: Path, decoded: Decoded) -> None:
    """Write gray, RGB or RGBA values of 16 bits; gray with alpha becomes RGBA."""
    values, channels = decoded.values, decoded.values.shape[-1]
    if channels == 2:
        values = values[..., [0, 0, 0, 1]]
    mode = {1: "mono", 3: "rgb"}.get(channels, "rgba")
    _write_by_kornia(path, np.ascontiguousarray(values), mode)
    chunks = b""  # kornia_rs writes no metadata
    if decoded.icc is not None:
        chunks += _chunk(b"iCCP", b"icc\0\0" + zlib.compress(decoded.icc))
    if decoded.exif is not None:
        resolution = pixels_per_inch(decoded.exif)
        if resolution is not None:
            chunks += _chunk(b"pHYs", struct.pack(">IIB", *(round(value / INCHES) for value in resolution), 1))
        chunks += _chunk(b"eXIf", decoded.exif)
    if chunks:  # right after the header, which ends at byte 33 in every PNG file
        content = path.read_bytes()
        path.write_bytes(content[:33] + chunks + content[33:])


def _write_by_kornia(path: Path, values: NDArray[np.uint16], mode: str) -> None:
    """Write a file by kornia_rs, which takes names in UTF-8 alone: others are written elsewhere first."""
    from kornia_rs import io as kornia_io

    try:
        name = os.fsencode(path).decode()
    except UnicodeDecodeError:
        with tempfile.TemporaryDirectory() as folder:
            kornia_io.write_image_png_u16(f"{folder}/image.png", values, mode)
            path.write_bytes(Path(folder, "image.png").read_bytes())
    else:
        kornia_io.write_image_png_u16(name, values, mode)


def _pairs(content: bytes, channels: int) -> NDArray[np.uint16]:
    """Return gray values with or without alpha, ``(H, W, channels)``.

    The filters of PNG work on bytes, and a pixel of two or four bytes is filtered as one of 8-bit gray and alpha, or of RGBA:
    read as those, the bytes of each value are two channels.
    """
    height, width = struct.unpack_from(">II", content, 16)[::-1]
    twin = COLOUR_ALPHA if channels == 2 else GREY_ALPHA
    header = content[16:24] + bytes([8, twin]) + content[26:29]
    data = b"".join(part for name, part in _chunks(content) if name == b"IDAT")
    file = io.BytesIO(content[:8] + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b""))
    with Image.open(file, formats=("PNG",)) as image:
        image.load()
        halves = np.asarray(image).reshape(height, width, channels, 2)
    return np.ascontiguousarray(halves).view(">u2")[..., 0].astype(np.uint16)


def _by_kornia(content: bytes, size: tuple[int, int], mode: str) -> NDArray[np.uint16]:
    from kornia_rs import io as kornia_io

    try:
        values: NDArray[np.uint16] = kornia_io.decode_image_png_u16(content, size, mode)
    except Exception:
        raise
    except BaseException as error:  # a panic of Rust derives from BaseException, as Ctrl-C does
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("it is damaged") from error
    return values.reshape(*values.shape[:2], -1)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        yield content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        at += 12 + length


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
