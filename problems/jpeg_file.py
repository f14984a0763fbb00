"""Reader of the quantized DCT coefficients in JPEG files, without the rounding that decoding adds.

Pillow, scikit-image and kornia do not expose the coefficients. They cannot be recovered exactly from decoded pixels, which are
clipped to 0..255, rounded, have interpolated chroma, and lack the parts of blocks beyond the border.
"""

from __future__ import annotations

import math
import os
import re
import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from invdiff.io.jpeg_segments import MARKER, check_segments
from invdiff.io.limits import check_image

__all__ = ["Component", "JPEGFile", "read_jpeg"]

BLOCK = 64
# Row-major index within a block of each coefficient in zigzag order, the order of a file.
ZIGZAG = sorted(range(BLOCK), key=lambda k: (k // 8 + k % 8, k // 8 if (k // 8 + k % 8) % 2 else k % 8))
SUPPORTED = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive"}
RESTART = re.compile(rb"\xff+[\xd0-\xd7]")


@dataclass(eq=False)
class Component:
    """One plane of a file: luma or a chroma component.

    Attributes:
        factors: Number of its blocks in a coding unit, ``(rows, columns)``.
        coefficients: Quantized integers, ``(block rows, block columns, 64)``, row-major within a block, for complete units.
        table: Quantization steps, ``(64,)``, row-major.
    """

    factors: tuple[int, int]
    coefficients: NDArray[np.int16]
    table: NDArray[np.int64]


@dataclass(eq=False)
class JPEGFile:
    """Contents of a JPEG file.

    Attributes:
        size: Image size as stored, ``(H, W)``: the EXIF orientation is not applied.
        components: Luma alone, or luma and two chroma components.
    """

    size: tuple[int, int]
    components: list[Component]


def read_jpeg(path: str | os.PathLike[str]) -> JPEGFile:
    """Read the quantized coefficients of an 8-bit baseline, extended or progressive JPEG file, grayscale or YCbCr.

    Raises:
        ValueError: If the file is damaged, is not a JPEG file, or is of an unsupported kind: CMYK, RGB, 12 bits, lossless,
            arithmetic coding.
        OSError: If the file does not exist or cannot be opened.

    References:
        ITU-T Recommendation T.81, https://www.w3.org/Graphics/JPEG/itu-t81.pdf, annexes B, F and G
    """
    try:
        return _Reader(Path(path).read_bytes()).read()
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error
    except (IndexError, KeyError, OverflowError, struct.error) as error:
        raise ValueError(f"{os.fspath(path)}: is damaged: its data are not valid JPEG.") from error


@dataclass(eq=False)
class _Plane:
    """A component while it is being read, with its coefficients in zigzag order, block after block."""

    factors: tuple[int, int]
    selector: int  # number of its quantization table
    blocks: tuple[int, int]  # rows and columns of blocks within the image
    stride: int  # columns of blocks in complete units
    coefficients: array[int]
    table: list[int] | None = None
    dc: list[int] = field(default_factory=list)
    ac: list[int] = field(default_factory=list)
    last: int = 0  # DC coefficient of the previous block


class _Reader:
    def __init__(self, data: bytes) -> None:
        if not data.startswith(b"\xff\xd8"):
            raise ValueError("is not a JPEG file: dejpeg reads the quantization tables of a JPEG file.")
        check_segments(data)
        self.data = data
        self.tables: dict[int, list[int]] = {}
        self.codes: dict[int, list[int]] = {}  # by class and number, as in the DHT segment
        self.planes: dict[int, _Plane] = {}
        self.interval, self.kind = 0, ""
        self.is_jfif, self.transform = False, -1

    def read(self) -> JPEGFile:
        at = 2
        while True:
            found = MARKER.search(self.data, at)
            if found is None:
                raise ValueError("is damaged: it ends early.")
            marker, at = found.group()[-1], found.end()
            if marker == 0xD9:
                return self._finish()
            (length,) = struct.unpack_from(">H", self.data, at)
            content = self.data[at + 2 : at + length]
            at += length
            if marker == 0xDA:
                at = self._scan(content, at)
            elif marker == 0xDB:
                self._quantisation(content)
            elif marker == 0xC4:
                self._huffman(content)
            elif marker == 0xDD:
                (self.interval,) = struct.unpack(">H", content)
            elif marker == 0xE0:
                self.is_jfif |= content.startswith(b"JFIF\0")
            elif marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
                self.transform = content[11]
            elif 0xC0 <= marker <= 0xCF and marker != 0xC8:
                self._frame(marker, content)

    def _frame(self, marker: int, content: bytes) -> None:
        if marker not in SUPPORTED:
            raise ValueError("is lossless, hierarchical or arithmetically coded, expected a baseline or progressive JPEG.")
        self.kind = SUPPORTED[marker]
        bits, height, width, count = struct.unpack_from(">BHHB", content)
        self.size = height, width
        if bits != 8 or not height or not width:
            raise ValueError(f"holds {width} x {height} pixels of {bits} bits, expected 8 bits and a positive size.")
        check_image(height, width, count)
        parts = [content[6 + 3 * k : 9 + 3 * k] for k in range(count)]
        numbers = [part[0] for part in parts]
        is_rgb = numbers == [*b"RGB"] if self.transform < 0 else self.transform == 0
        if count not in (1, 3) or (count == 3 and is_rgb and not self.is_jfif):
            kind = {3: "RGB", 4: "CMYK"}.get(count, f"{count} components")
            raise ValueError(f"is a JPEG of {kind}, expected grayscale or YCbCr, as in photographs.")
        factors = [(part[1] & 15, part[1] >> 4) for part in parts] if count > 1 else [(1, 1)]
        if any(not 1 <= factor <= 4 for pair in factors for factor in pair):
            raise ValueError(f"is damaged: it has invalid sampling factors {factors}.")
        v_max, h_max = (max(axis) for axis in zip(*factors, strict=True))
        self.units = -(-height // (8 * v_max)), -(-width // (8 * h_max))
        if self.units[0] * self.units[1] * sum(v * h for v, h in factors) > 8 * len(self.data):
            raise ValueError("is damaged: it ends early.")  # a block takes a bit or more
        for part, (v, h) in zip(parts, factors, strict=True):
            inside = math.ceil(math.ceil(height * v / v_max) / 8), math.ceil(math.ceil(width * h / h_max) / 8)
            rows, stride = self.units[0] * v, self.units[1] * h
            self.planes[part[0]] = _Plane((v, h), part[2], inside, stride, array("h", bytes(2 * BLOCK * rows * stride)))

    def _quantisation(self, content: bytes) -> None:
        while content:
            wide, number = content[0] >> 4, content[0] & 15
            self.tables[number] = list(struct.unpack_from(">64H" if wide else ">64B", content, 1))
            content = content[129 if wide else 65 :]

    def _huffman(self, content: bytes) -> None:
        """Map the next 16 bits to the length and the value of the code that they begin with, or to 0 if there is none."""
        while content:
            counts, values = content[1:17], content[17 : 17 + sum(content[1:17])]
            if sum(count << 16 - length for length, count in enumerate(counts, start=1)) > 1 << 16:
                raise ValueError("is damaged: it has more Huffman codes than there can be.")  # it would fill the memory
            table: list[int] = []
            for length, count in enumerate(counts, start=1):
                for value in values[:count]:
                    table += [length << 8 | value] * (1 << 16 - length)
                values = values[count:]
            self.codes[content[0]] = (table + [0] * (1 << 16))[: 1 << 16]
            content = content[17 + sum(counts) :]

    def _scan(self, content: bytes, at: int) -> int:
        if not self.planes:
            raise ValueError("is damaged: it has data before the image size.")
        planes = []
        for k in range(content[0]):
            number, codes = content[1 + 2 * k], content[2 + 2 * k]
            plane = self.planes[number]
            plane.table = plane.table or self.tables[plane.selector]
            plane.dc, plane.ac = self.codes.get(codes >> 4, []), self.codes.get(16 | (codes & 15), [])
            planes.append(plane)
        first, last, approximation = content[1 + 2 * len(planes) :][:3]
        if last >= BLOCK or (self.kind != "progressive" and (first, last, approximation) != (0, 63, 0)):
            raise ValueError(f"is damaged: it has an invalid scan of coefficients {first} to {last}.")
        found = MARKER.search(self.data, at)
        end = len(self.data) if found is None else found.start()
        blocks = list(self._order(planes))
        if self.interval:  # in units, which are single blocks in a scan of one component
            size = self.interval * (sum(v * h for v, h in (plane.factors for plane in planes)) if len(planes) > 1 else 1)
            groups = [blocks[k : k + size] for k in range(0, len(blocks), size)]
        else:
            groups = [blocks]
        segments = RESTART.split(self.data[at:end])
        if len(segments) < len(groups):
            raise ValueError("is damaged: it ends early.")
        for group, segment in zip(groups, segments, strict=False):
            _decode(group, _Bits(segment.replace(b"\xff\0", b"\xff")), first, last, approximation >> 4, approximation & 15)
        return end

    def _order(self, planes: list[_Plane]) -> Iterator[tuple[_Plane, int]]:
        """Yield the blocks of a scan in order: the component, and the index of the first coefficient of the block."""
        if len(planes) == 1:
            rows, columns = planes[0].blocks
            yield from ((planes[0], BLOCK * (i * planes[0].stride + j)) for i in range(rows) for j in range(columns))
            return
        cells = [(plane, i, j) for plane in planes for i in range(plane.factors[0]) for j in range(plane.factors[1])]
        for row in range(self.units[0]):
            for column in range(self.units[1]):
                for plane, i, j in cells:
                    v, h = plane.factors
                    yield plane, BLOCK * ((v * row + i) * plane.stride + h * column + j)

    def _finish(self) -> JPEGFile:
        components = []
        for plane in self.planes.values():
            if plane.table is None:
                raise ValueError("is damaged: a component has no data.")
            coefficients = np.empty((len(plane.coefficients) // BLOCK, BLOCK), dtype=np.int16)
            coefficients[:, ZIGZAG] = np.frombuffer(plane.coefficients, dtype=np.int16).reshape(-1, BLOCK)
            table = np.empty(BLOCK, dtype=np.int64)
            table[ZIGZAG] = plane.table
            components.append(Component(plane.factors, coefficients.reshape(-1, plane.stride, BLOCK), table))
        if not components:
            raise ValueError("is damaged: it holds no image.")
        return JPEGFile(self.size, components)


class _Bits:
    """Reader of the bits of a segment, most significant bit first."""

    def __init__(self, data: bytes) -> None:
        padded = np.frombuffer(data + bytes(8), dtype=np.uint8).astype(np.uint32)
        windows = padded[:-3] << 24 | padded[1:-2] << 16 | padded[2:-1] << 8 | padded[3:]
        self.windows = windows.astype(np.uint32).data  # the 32 bits that start at each byte
        self.at, self.end = 0, 8 * len(data)

    def code(self, table: list[int]) -> int:
        entry = table[self.windows[self.at >> 3] >> 16 - (self.at & 7) & 0xFFFF]
        if not entry:
            raise ValueError("is damaged: its data are not valid JPEG.")
        self.at += entry >> 8
        return entry & 0xFF

    def number(self, count: int) -> int:
        value = self.windows[self.at >> 3] >> 32 - (self.at & 7) - count & (1 << count) - 1
        self.at += count
        return value

    def signed(self, count: int) -> int:
        value = self.number(count)
        return value if not count or value >> count - 1 else value - (1 << count) + 1


def _decode(blocks: Iterable[tuple[_Plane, int]], bits: _Bits, first: int, last: int, high: int, low: int) -> None:
    """Decode coefficients ``first`` to ``last`` down to bit ``low``; a nonzero ``high`` means a refinement by that bit only."""
    run = 0  # blocks to skip in an end-of-band run
    for plane, _ in blocks:
        plane.last = 0
    for plane, base in blocks:
        coefficients = plane.coefficients
        if first == 0:
            if high:
                coefficients[base] |= bits.number(1) << low
            else:
                plane.last += bits.signed(bits.code(plane.dc))
                coefficients[base] = plane.last << low
        if last:
            begin = base + max(first, 1)
            step = _refine if high else _extend
            run = step(coefficients, begin, base + last, bits, plane.ac, 1 << low, run)
        if bits.at > bits.end:
            raise ValueError("is damaged: it ends early.")


def _extend(coefficients: array[int], at: int, last: int, bits: _Bits, codes: list[int], unit: int, run: int) -> int:
    if run:
        return run - 1
    while at <= last:
        code = bits.code(codes)
        zeros, size = code >> 4, code & 15
        if size:
            at += zeros
            value = bits.signed(size) * unit
            if at > last:
                raise ValueError("is damaged: its data are not valid JPEG.")
            coefficients[at] = value
            at += 1
        elif zeros == 15:
            at += 16
        else:
            return (1 << zeros) + bits.number(zeros) - 1
    return 0


def _refine(coefficients: array[int], at: int, last: int, bits: _Bits, codes: list[int], unit: int, run: int) -> int:
    while at <= last and not run:
        code = bits.code(codes)
        zeros, size = code >> 4, code & 15
        if not size and zeros < 15:
            run = (1 << zeros) + bits.number(zeros)
            break
        value = (unit if bits.number(1) else -unit) if size else 0
        while at <= last and (coefficients[at] or zeros):  # nonzero coefficients do not count in a run of zeros
            if coefficients[at]:
                _refine_one(coefficients, at, bits, unit)
            else:
                zeros -= 1
            at += 1
        if at <= last and value:
            coefficients[at] = value
        at += 1
    if not run:
        return 0
    for k in range(at, last + 1):
        if coefficients[k]:
            _refine_one(coefficients, k, bits, unit)
    return run - 1


def _refine_one(coefficients: array[int], at: int, bits: _Bits, unit: int) -> None:
    if bits.number(1) and not abs(coefficients[at]) & unit:
        coefficients[at] += unit if coefficients[at] > 0 else -unit
