"""A writer of TIFF files in every layout, by the letter of the format: independent of what the package reads and writes."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

CODECS = {
    "none": (1, ""),
    "lzw": (5, "tiff_lzw"),
    "deflate": (8, "tiff_adobe_deflate"),
    "old deflate": (32946, "tiff_deflate"),
    "packbits": (32773, "packbits"),
    "lzma": (34925, "lzma"),
    "zstd": (50000, "zstd"),
}
NO_PREDICTOR, DIFFERENCES, FLOAT_DIFFERENCES = 1, 2, 3


def write_tiff(
    path: Path,
    values: Any,
    *,
    codec: str = "none",
    planar: bool = False,
    tile: int | None = None,
    rows: int = 5,
    predictor: int = NO_PREDICTOR,
    order: Any = "<",
    photometric: int | None = None,
    extra: tuple[int, ...] = (),
    bits: int | None = None,
    reverse: bool = False,
) -> None:
    """Write ``(H, W, S)`` in strips of some rows, or in tiles.

    Args:
        path: The file.
        values: The samples.
        codec: A name in :data:`CODECS`.
        planar: Whether each sample has strips or tiles of its own.
        tile: Side of tiles.
        rows: Of a strip.
        predictor: What is stored instead of the samples.
        order: Byte order.
        photometric: Photometric interpretation. Default: RGB for three samples, otherwise BlackIsZero.
        extra: Kinds of extra samples.
        bits: Of each integer. Default: all.
        reverse: Whether the lowest bit of each byte comes first.
    """
    height, width, samples = values.shape
    parts = [values[..., k : k + 1] for k in range(samples)] if planar else [values]
    segments = []
    for part in parts:
        for y in range(0, height, tile or rows):
            for x in range(0, width, tile or width):
                piece = part[y : y + (tile or rows), x : x + (tile or width)]
                down, across = ((tile - side) if tile else 0 for side in piece.shape[:2])
                segments.append(np.pad(piece, ((0, down), (0, across), (0, 0))))
    data = [_compressed(_stored(segment, predictor, order, bits), codec) for segment in segments]
    if reverse:
        table = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
        data = [part.translate(table) for part in data]
    kind = {"u": 1, "i": 2, "f": 3, "c": 6}[values.dtype.kind]
    offsets = np.cumsum([8, *(len(part) + len(part) % 2 for part in data[:-1])]).tolist()
    places, sizes = (324, 325) if tile else (273, 279)
    tags = {
        256: [width],
        257: [height],
        258: [bits or 8 * values.dtype.itemsize] * samples,
        259: [CODECS[codec][0]],
        262: [(2 if samples == 3 else 1) if photometric is None else photometric],
        266: [2 if reverse else 1],
        277: [samples],
        284: [2 if planar else 1],
        317: [predictor],
        339: [kind] * samples,
        places: offsets,
        sizes: [len(part) for part in data],
    }
    tags |= {322: [tile], 323: [tile]} if tile else {278: [rows]}
    tags |= {338: list(extra)} if extra else {}
    body = b"".join(part + b"\0" * (len(part) % 2) for part in data)
    entries, lists, start = b"", b"", 8 + len(body)
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        single = len(numbers) == 1
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers))
        entries += packed if single else struct.pack(f"{order}I", start + len(lists))
        lists += b"" if single else packed
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start + len(lists))
    path.write_bytes(head + body + lists + struct.pack(f"{order}H", len(tags)) + entries + bytes(4))


def _stored(segment: Any, predictor: int, order: Any, bits: int | None) -> bytes:
    rows, columns, samples = segment.shape
    if bits is not None:  # the most significant bit first, whatever the byte order
        digits = segment.reshape(rows, -1)[..., None] >> np.arange(bits - 1, -1, -1) & 1
        return np.packbits(digits.astype(np.uint8).reshape(rows, -1), axis=1).tobytes()
    size = segment.dtype.itemsize
    if predictor == FLOAT_DIFFERENCES:
        ordered = segment.reshape(rows, -1).astype(segment.dtype.newbyteorder(">"))
        octets = np.ascontiguousarray(ordered).view(np.uint8).reshape(rows, -1, size).swapaxes(1, 2)
        return _differences(octets.reshape(rows, columns * size, samples)).tobytes()
    integers = np.ascontiguousarray(segment).view(f"u{size}")
    integers = _differences(integers) if predictor == DIFFERENCES else integers
    return integers.astype(integers.dtype.newbyteorder(order)).tobytes()


def _differences(values: Any) -> Any:
    out = values.copy()
    out[:, 1:] = values[:, 1:] - values[:, :-1]
    return out


def _compressed(data: bytes, codec: str) -> bytes:
    name = CODECS[codec][1]
    if not name:
        return data
    if "deflate" in codec:
        return zlib.compress(data)
    file = io.BytesIO()
    Image.fromarray(np.frombuffer(data, np.uint8)[None]).save(file, "TIFF", compression=name)
    with tifffile.TiffFile(io.BytesIO(file.getvalue())) as written:
        page: Any = written.pages.first
        (offset,), (size,) = page.dataoffsets, page.databytecounts
    return file.getvalue()[offset : offset + size]
