"""The file that a picture was read from, as its results are written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from invdiff.formats.format import Format, Scan, Stack, Written
from invdiff.formats.window import Window

__all__ = ["Origin", "described", "write"]


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a picture comes from.

    Attributes:
        kind: Format of the file.
        contents: What it holds.
        number: Which of its pictures, counted from 0.
        window: Black and white in its units.
    """

    kind: Format
    contents: Stack | Scan
    number: int
    window: Window


def described(origin: Origin) -> dict[str, object]:
    """Return format, unit and window, for the record of a run."""
    window = origin.window
    return {
        "format": origin.kind.name,
        "unit": origin.contents.unit,
        "window": [window.low, window.high],
        "window_from": window.told_by,
        origin.contents.axis: origin.number + 1,
    }


def write(path: Path, pictures: Iterable[NDArray[np.floating]], origin: Origin, written: Written) -> None:
    """Write pictures ``(C, H, W)`` in the units of a file, in its format and with its header.

    Args:
        path: The file, with the suffix of the format.
        pictures: As many as ``written.numbers``, one after another.
        origin: What they were made from.
        written: What they are.
    """
    origin.kind.write(path, (np.asarray(each, dtype=np.float32) for each in pictures), origin.contents, written)
