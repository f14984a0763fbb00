"""File names that programs stumble over."""

from __future__ import annotations

import os

from numpy.random import Generator

__all__ = ["odd_name"]

STEMS = (
    "with space",
    "-dash",
    "--noise",
    "ümläut ☃",
    "日本語",
    "new\nline",
    "esc\x1b[31mred\x1b]0;title\x07",
    "back\x08space\x7f",
    "rtl\u202egnp",
    os.fsdecode(b"latin\xe9"),
    "a:b",
    "per%cent %s {0}",
    "quote'\"",
    "*glob[a-z]?",
    "semi;colon$(x)",
    "x" * 200,
    "..dots",
    "run.json",
    "gaussian:2",
    "natural",
    ".hidden",
    "trailing ",
    "back\\slash",
)


def odd_name(rng: Generator, suffix: str) -> str:
    """Return a file name with the suffix, sometimes in capitals."""
    return str(STEMS[int(rng.integers(len(STEMS)))]) + (suffix.upper() if rng.random() < 0.3 else suffix)
