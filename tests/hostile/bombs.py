"""Small files that ask for much: pictures and arrays of huge declared sizes, and text nested without end."""

from __future__ import annotations

import functools
import io
import struct
import zipfile
import zlib

import safetensors.torch
import torch
from numpy.random import Generator

__all__ = ["bomb"]

LARGE = 11_000  # side of a picture that would fill gigabytes as floats


@functools.cache
def _zeros(count: int) -> bytes:
    return zlib.compress(b"\0" * count, 1)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(side: int, depth: int, color: int, pixels: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _tiff(side: int) -> bytes:
    """Return a TIFF file of one strip that declares a picture of ``side`` squared and holds four bytes of it."""
    entries = [
        (256, side),
        (257, side),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, side),
        (279, side * side % 2**32),
    ]
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<I", 12) + b"\0\0\0\0" + struct.pack("<H", len(entries)) + tags + b"\0\0\0\0"


def _jpeg(height: int, width: int) -> bytes:
    """Return the header of a JPEG file, and the end of one."""
    tables = b"\xff\xdb\0\x43\0" + b"\1" * 64
    frame = b"\xff\xc0\0\x0b\x08" + struct.pack(">HH", height, width) + b"\1\1\x11\0"
    return b"\xff\xd8" + tables + frame + b"\xff\xda\0\x08\1\1\0\0\x3f\0" + b"\0" * 50 + b"\xff\xd9"


def _bmp(side: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 12, 0, 0, 54) + header + b"\0" * 12


def _npy(descr: str, shape: str) -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


def _npz(name: str, shape: tuple[int, ...], *, filled: bool) -> bytes:
    """Return an archive with an array that is not there, or is all zeros and compressed a thousandfold."""
    buffer, count = io.BytesIO(), 8
    for side in shape:
        count *= side
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(f"{name}.npy", "w") as file,
    ):
        file.write(_npy("<c8" if name == "kspace" else "<f8", str(shape)))
        for _ in range(count // 2**20 if filled else 0):
            file.write(b"\0" * 2**20)
    return buffer.getvalue()


@functools.cache
def _zeros_inside() -> bytes:
    return _npz("kspace", (40, 1024, 1024), filled=True)


def _torch() -> bytes:
    """Return a file of torch whose tensor repeats one number."""
    buffer = io.BytesIO()
    torch.save({"input_blocks.0.0.weight": torch.zeros(1).expand(30_000, 30_000, 3, 3)}, buffer)
    return buffer.getvalue()


def bomb(rng: Generator) -> tuple[str, bytes]:
    """Return the suffix and the bytes of a file."""
    kind = int(rng.integers(14))
    if kind == 0:
        return ".png", _png(LARGE, 8, 0, _zeros(LARGE * (LARGE + 1)))
    if kind == 1:
        return ".png", _png(int(rng.choice([2**31 - 1, 2**16, 10**6])), int(rng.choice([1, 8, 16])), 0, _zeros(1000))
    if kind == 2:
        return ".png", _png(LARGE, 16, 2, _zeros(1000))
    if kind == 3:
        return ".tif", _tiff(int(rng.choice([LARGE, 2**20, 2**31 - 1])))
    if kind == 4:
        return ".jpg", _jpeg(65_535, int(rng.choice([65_535, 1])))
    if kind == 5:
        return ".bmp", _bmp(int(rng.choice([LARGE, 2**20, 2**31 - 1])))
    if kind == 6:
        return ".npy", _npy(
            "<f8", str(rng.choice(["(2147483647, 2147483647)", "(3, 40000, 40000)", "(99999999999999999999, 2)", "(-1, 5)"]))
        )
    if kind == 7:
        return ".npy", _npy(str(rng.choice(["<f8", "V99999999", "<U99999999", "|O"])), "(4, 4)") + b"\0" * 128
    if kind == 8:
        return ".npz", _npz(str(rng.choice(["kspace", "sinogram"])), (2**15, 2**15, 2**15), filled=False)
    if kind == 9:
        return ".npz", _zeros_inside()
    if kind == 10:
        return ".json", b"[" * 100_000
    if kind == 11:
        return ".json", b'{"format": "invdiff calibration, version 1", "problems": {"sr": ' + b'{"a":' * 50_000
    if kind == 12:
        spec = '{"architecture": "UNet", "config": ' + "[" * 50_000
        return ".safetensors", safetensors.torch.save({"w": torch.zeros(2)}, {"invdiff": spec})
    return ".pt", _torch()
