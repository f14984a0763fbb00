"""Decompression of the strips and tiles of TIFF files, and their assembly to an image.

tifffile alone decompresses few codecs, without a bound on what comes out; kornia_rs ignores planes; Pillow truncates colors.
libtiff, a part of Pillow, decompresses LZW, Deflate, PackBits, LZMA and Zstandard: it is given the strips or tiles as those of
an image of bytes, one gray pixel each, which leaves predictor, byte order and layout to this module.
"""

from __future__ import annotations

import io
import struct
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from invdiff.io.limits import check_array
from invdiff.io.quiet import without_stderr

__all__ = ["DECOMPRESSED", "samples_of"]

NONE, LZW = 1, 5
DECOMPRESSED = (NONE, LZW, 8, 32773, 32946, 34925, 50000)  # LZW, Deflate, PackBits, Deflate, LZMA, Zstandard
DIFFERENCES, FLOAT_DIFFERENCES = 2, 3  # predictors
PLANES = 2  # planar configuration
BATCH = 2**26  # bytes decompressed at a time


def samples_of(page: Any, content: Any) -> NDArray[Any]:
    """Return the samples of a page, ``(H, W, S)``, in the byte order of this machine.

    Samples of 9 to 15 bits become integers of 16 bits, of the same values.

    Args:
        page: Page of a tifffile file, whose compression is in :data:`DECOMPRESSED`.
        content: The file, open.

    Raises:
        ValueError: If the page is damaged, or laid out in a way that is not supported.
    """
    planes = page.samplesperpixel if page.planarconfig == PLANES else 1
    count, bits = page.samplesperpixel // planes, page.bitspersample  # samples in a segment; bits of each
    height, width = page.imagelength, page.imagewidth
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
    if min(rows, columns) < 1:
        raise ValueError("it is damaged: its strips or tiles are empty")
    down, across = -(-height // rows), -(-width // columns)
    check_array((planes * down * rows, across * columns, count))
    if len(page.dataoffsets) < planes * down * across or len(page.databytecounts) < planes * down * across:
        raise ValueError("it is damaged: strips or tiles are missing")
    row_bytes = -(-columns * count * bits // 8)
    raw = np.zeros((planes, down, across, rows, row_bytes), dtype=np.uint8)
    last = rows if page.is_tiled else height - rows * (down - 1)  # rows of the last strip
    flat = raw.reshape(-1, rows, row_bytes)
    short = [] if last == rows else list(range(down - 1, len(flat), down))
    full = [k for k in range(len(flat)) if last == rows or k % down != down - 1]
    for chosen, filled in ((full, rows), (short, last)):
        batch = max(1, BATCH // (filled * row_bytes))
        for start in range(0, len(chosen), batch):
            part = chosen[start : start + batch]
            flat[part, :filled] = _decompressed(page, content, part, filled, row_bytes)
    values = _values(page, raw, columns, count)  # (planes, down, across, rows, columns, count)
    image = values.transpose(1, 3, 2, 4, 0, 5).reshape(down * rows, across * columns, planes * count)
    return np.ascontiguousarray(image[:height, :width])


def _decompressed(page: Any, content: Any, segments: list[int], rows: int, row_bytes: int) -> NDArray[np.uint8]:
    """Return the bytes of segments, ``(n, rows, row_bytes)``."""
    size, shape = rows * row_bytes, (len(segments), rows, row_bytes)
    out = np.zeros(shape, dtype=np.uint8)
    stored, parts = list[int](), list[bytes]()
    for place, k in enumerate(segments):
        offset, length = page.dataoffsets[k], page.databytecounts[k]
        if not offset and not length:  # a sparse file: the segment is zero
            continue
        content.seek(offset)
        part = content.read(min(length, 4 * size + 4096))  # no codec makes data so much larger: overlaps cost no memory
        if page.compression == NONE and len(part) < size:
            raise ValueError("it is damaged or truncated: strips or tiles end early")
        stored.append(place)
        parts.append(part[:size] if page.compression == NONE else part)
    if not parts:
        return out
    if page.compression == NONE:
        values = np.frombuffer(b"".join(parts), dtype=np.uint8).reshape(-1, rows, row_bytes)
        out[stored] = _reversed_bits(values) if page.fillorder == 2 else values
        return out
    file = io.BytesIO(_image_of_bytes(parts, page.compression, page.fillorder, rows, row_bytes))
    with (
        without_stderr(),
        cast(Any, TiffImagePlugin.TiffImageFile(file)) as image,
    ):  # not Image.open, whose bound is on pixels, not bytes
        image.load()
        out[stored] = np.asarray(image).reshape(-1, rows, row_bytes)
    return out


def _image_of_bytes(parts: list[bytes], compression: int, fillorder: int, rows: int, row_bytes: int) -> bytes:
    """Return a TIFF file of bytes as gray pixels, whose strips are the compressed ``parts``."""
    count = len(parts)
    data = b"".join(parts)
    data += b"\0" * (len(data) % 2)
    offsets = np.cumsum([8, *map(len, parts[:-1])]).astype("<u4").tobytes()
    lengths = np.array([len(part) for part in parts], dtype="<u4").tobytes()
    tables = 8 + len(data)
    tags = {
        256: row_bytes,
        257: rows * count,
        258: 8,
        259: compression,
        262: 1,
        266: fillorder,
        273: int.from_bytes(offsets, "little") if count == 1 else tables,
        277: 1,
        278: rows,
        279: int.from_bytes(lengths, "little") if count == 1 else tables + 4 * count,
    }
    many = (273, 279)
    entries = b"".join(struct.pack("<HHII", tag, 4, count if tag in many else 1, value) for tag, value in tags.items())
    start = tables + (8 * count if count > 1 else 0)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return struct.pack("<2sHI", b"II", 42, start) + data + (offsets + lengths if count > 1 else b"") + directory


def _values(page: Any, raw: NDArray[np.uint8], columns: int, count: int) -> NDArray[Any]:
    """Return samples ``(..., columns, count)`` of rows of bytes, with the predictor undone."""
    bits = page.bitspersample
    if bits % 8:
        return _unpacked(raw, bits, columns * count).reshape(*raw.shape[:-1], columns, count)
    order: str = page.parent.byteorder
    dtype = np.dtype(page.dtype).newbyteorder(cast(Any, order))
    if page.predictor == FLOAT_DIFFERENCES:  # of bytes, sorted by significance
        steps = raw.reshape(*raw.shape[:-1], columns * bits // 8, count).cumsum(-2, dtype=np.uint8)
        ordered = steps.reshape(*raw.shape[:-1], bits // 8, columns * count).swapaxes(-1, -2)
        floats = np.ascontiguousarray(ordered).view(dtype.newbyteorder(">"))[..., 0].reshape(*raw.shape[:-1], columns, count)
        result: NDArray[Any] = floats.astype(dtype.newbyteorder("="))
        return result
    values: NDArray[Any] = raw.view(dtype).reshape(*raw.shape[:-1], columns, count)
    if page.predictor == DIFFERENCES:
        integers = values.view(f"{order}u{dtype.itemsize}")
        sums: NDArray[Any] = integers.cumsum(-2, dtype=f"u{dtype.itemsize}")
        return sums.view(dtype.newbyteorder("="))
    if page.predictor != NONE:
        raise ValueError(f"its predictor {int(page.predictor)} is not supported; save it without one")
    return values.astype(dtype.newbyteorder("="), copy=False)


def _unpacked(raw: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint16]:
    """Return integers of 9 to 15 bits, the most significant bit first, as integers of 16 bits."""
    out = np.zeros((*raw.shape[:-1], count), dtype=np.uint16)
    padded = np.concatenate([raw, np.zeros((*raw.shape[:-1], 2), dtype=np.uint8)], axis=-1)
    for k in range(8):  # samples k, k + 8, ... begin at the same bit of a byte
        at = np.arange(k, count, 8) * bits
        first, shift = at // 8, 24 - bits - (k * bits) % 8
        window = sum(padded[..., first + n].astype(np.uint32) << (16 - 8 * n) for n in range(3))
        out[..., k::8] = (window >> np.uint32(shift)) & np.uint32((1 << bits) - 1)
    return out


def _reversed_bits(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    table = np.array([int(f"{byte:08b}"[::-1], 2) for byte in range(256)], dtype=np.uint8)
    return table[values]
