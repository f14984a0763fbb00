r"""Color spaces of results made of linear light: primaries, transfer curves and ICC profiles.

All have the white point D65, so that white is ``(1, 1, 1)`` in each of them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from invdiff.formats.format import Array

__all__ = ["COLOR_SPACES", "SRGB", "ColorSpace", "Curve", "rgb_to_rgb", "rgb_to_xyz"]

D65 = 0.3127, 0.3290  # chromaticity
D50 = 0.9642, 1.0, 0.8249  # XYZ of the connection space of ICC profiles
# From XYZ to the cone responses in which Bradford adapts white points.
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True)
class Curve:
    r"""A power of linear light :math:`v` with a linear part at black, as displays expect: from 0..1 to 0..1, continuous.

    .. math:: f(v) = \begin{cases} s\, v & v \le t \\ (1 + b)\, v^{1/\gamma} - b & v > t \end{cases}

    Values below 0 continue the line, values above 1 the power.

    Attributes:
        gamma: :math:`\gamma`.
        bend: :math:`b`.
        slope: :math:`s`.
        toe: :math:`t`, where the line ends.
    """

    gamma: float
    bend: float
    slope: float
    toe: float

    def encode(self, light: Array) -> Array:
        """Return :math:`f(v)`."""
        power = (1 + self.bend) * np.maximum(light, self.toe) ** (1 / self.gamma) - self.bend
        return np.where(light <= self.toe, self.slope * light, power)

    def decode(self, values: Array) -> Array:
        """Return :math:`v`, the inverse of :meth:`encode`."""
        end = self.slope * self.toe
        power = ((np.maximum(values, end) + self.bend) / (1 + self.bend)) ** self.gamma
        return np.where(values <= end, values / self.slope, power)

    def derivative(self, light: Array) -> Array:
        """Return :math:`f'(v)`."""
        power = (1 + self.bend) / self.gamma * np.maximum(light, self.toe) ** (1 / self.gamma - 1)
        return np.where(light <= self.toe, self.slope, power)


# IEC 61966-2-1 and ITU-R BT.2020.
SRGB = Curve(gamma=2.4, bend=0.055, slope=12.92, toe=0.0031308)
BT2020 = Curve(gamma=1 / 0.45, bend=0.09929682680944, slope=4.5, toe=0.018053968510807)


@dataclass(frozen=True)
class ColorSpace:
    """A color space with the white point D65.

    Attributes:
        name: Name for people.
        primaries: Chromaticities ``(x, y)`` of red, green and blue; ``None``: those of the camera.
        curve: Transfer curve of its files; ``None``: linear light.
    """

    name: str
    primaries: tuple[tuple[float, float], ...] | None
    curve: Curve | None = None

    def icc(self) -> bytes | None:
        """Return an ICC profile of version 4, of matrix and curve; ``None`` without primaries."""
        return None if self.primaries is None else _profile(self.name, self.primaries, self.curve)


OF_SRGB = (0.640, 0.330), (0.300, 0.600), (0.150, 0.060)
OF_P3 = (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)
OF_2020 = (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)
COLOR_SPACES: dict[str, ColorSpace] = {
    "srgb": ColorSpace("sRGB", OF_SRGB, SRGB),
    "display-p3": ColorSpace("Display P3", OF_P3, SRGB),
    "rec2020": ColorSpace("Rec. 2020", OF_2020, BT2020),
    "linear-srgb": ColorSpace("linear sRGB", OF_SRGB),
    "linear-rec2020": ColorSpace("linear Rec. 2020", OF_2020),
    "camera": ColorSpace("linear RGB of the camera, white-balanced", None),
}


def rgb_to_xyz(primaries: tuple[tuple[float, float], ...], white: tuple[float, float] = D65) -> Array:
    """Return the matrix ``(3, 3)`` from linear RGB to XYZ, under which RGB white has luminance 1."""
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in (*primaries, white)]).T
    shares = np.linalg.solve(columns[:, :3], columns[:, 3])
    return np.asarray(columns[:, :3] * shares, dtype=np.float64)


def rgb_to_rgb(source: tuple[tuple[float, float], ...], target: tuple[tuple[float, float], ...]) -> Array:
    """Return the matrix ``(3, 3)`` from linear RGB of one space to that of another."""
    return np.asarray(np.linalg.solve(rgb_to_xyz(target), rgb_to_xyz(source)), dtype=np.float64)


def _profile(name: str, primaries: tuple[tuple[float, float], ...], curve: Curve | None) -> bytes:
    """Return a display profile (ICC.1:2022): colorants adapted to D50 by Bradford, parametric curves."""
    x, y = D65
    cones = BRADFORD @ np.array([x / y, 1, (1 - x - y) / y])
    adapted = np.linalg.solve(BRADFORD, (BRADFORD @ np.array(D50) / cones)[:, None] * BRADFORD)
    colorants = adapted @ rgb_to_xyz(primaries)
    if curve is None:
        transfer = b"curv" + bytes(8)
    else:  # from values to light: ((v + b) / (1 + b))^gamma from the end of the line on
        a, b, c, d = 1 / (1 + curve.bend), curve.bend / (1 + curve.bend), 1 / curve.slope, curve.slope * curve.toe
        transfer = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed(curve.gamma, a, b, c, d)
    tags = {
        b"desc": _text(name),
        b"cprt": _text("CC0"),
        b"wtpt": b"XYZ " + bytes(4) + _fixed(*D50),
        b"chad": b"sf32" + bytes(4) + _fixed(*adapted.ravel()),
        **{
            letter + b"XYZ": b"XYZ " + bytes(4) + _fixed(*column)
            for letter, column in zip((b"r", b"g", b"b"), colorants.T, strict=True)
        },
        **{letter + b"TRC": transfer for letter in (b"r", b"g", b"b")},
    }
    table, contents, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for tag, content in tags.items():
        table += struct.pack(">4sII", tag, start + len(contents), len(content))
        contents += content + bytes(-len(content) % 4)
    size = start + len(contents)
    dates = struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
    head = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x04400000, b"mntr", b"RGB ", b"XYZ ") + dates + b"acsp"
    head = head.ljust(68, b"\0") + _fixed(*D50)
    return head.ljust(128, b"\0") + table + contents


def _fixed(*values: Any) -> bytes:
    """Return numbers as s15Fixed16."""
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65536) for value in values))


def _text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(encoded), 28) + encoded
