"""Damage to the bytes of a file: as a broken download, a failing disk or malice leaves it."""

from __future__ import annotations

import struct
from collections.abc import Callable

from numpy.random import Generator

__all__ = ["damaged"]

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def damaged(rng: Generator, content: bytes) -> bytes:
    """Return the bytes with one to three kinds of damage."""
    for _ in range(int(rng.integers(1, 4))):
        content = HARM[int(rng.integers(len(HARM)))](rng, content)
    return content


def _place(rng: Generator, content: bytes) -> int:
    """Return an offset, in the first 64 bytes half of the time: headers are there."""
    end = min(len(content), 64) if rng.random() < 0.5 else len(content)
    return int(rng.integers(max(end, 1)))


def _truncated(rng: Generator, content: bytes) -> bytes:
    return content[: _place(rng, content)]


def _flipped(rng: Generator, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.choice([1, 1, 4, 40])) if content else 0):
        changed[_place(rng, content)] ^= int(rng.integers(1, 256))
    return bytes(changed)


def _inserted(rng: Generator, content: bytes) -> bytes:
    at = _place(rng, content)
    return content[:at] + rng.bytes(int(rng.choice([1, 4, 300]))) + content[at:]


def _removed(rng: Generator, content: bytes) -> bytes:
    at = _place(rng, content)
    return content[:at] + content[at + int(rng.choice([1, 4, 100])) :]


def _number(rng: Generator, content: bytes) -> bytes:
    """Put an extreme number of two or four bytes where a header may hold a size."""
    at, order = _place(rng, content), str(rng.choice(["<", ">"]))
    value = int(rng.choice(EXTREMES))
    number = struct.pack(f"{order}H", value & 0xFFFF) if rng.random() < 0.5 else struct.pack(f"{order}I", value)
    return content[:at] + number + content[at + len(number) :]


def _text(rng: Generator, content: bytes) -> bytes:
    """Change the numbers written as digits, as in the headers of ``.npy`` files and in JSON."""
    places = [at for at, byte in enumerate(content[:400]) if chr(byte).isdigit()]
    if not places:
        return _flipped(rng, content)
    at = places[int(rng.integers(len(places)))]
    other = [b"9", b"0", b"-", b"e"][int(rng.integers(4))]
    return content[:at] + other + content[at + 1 :]


def _doubled(rng: Generator, content: bytes) -> bytes:
    return content + content[: _place(rng, content)]


HARM: tuple[Callable[[Generator, bytes], bytes], ...] = (
    _truncated,
    _flipped,
    _inserted,
    _removed,
    _number,
    _text,
    _doubled,
)
