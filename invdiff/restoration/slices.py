"""Which slices of a volume are restored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invdiff.io.source import Source
from invdiff.problems import OptionError

__all__ = ["of_volume", "one_slice", "slice_numbers"]

RANGE = re.compile(r"(\d+)(?::(\d+))?")


def slice_numbers(text: str | int, count: int) -> tuple[int, ...]:
    """Return the numbers of slices, counted from 0, that text describes: ``"all"``, ``"5"`` or ``"3:10"``, counted from 1.

    Raises:
        OptionError: If it describes none.
    """
    if text == "all":
        return tuple(range(count))
    found = RANGE.fullmatch(str(text).strip())
    first, last = (int(end or found[1]) for end in found.groups()) if found else (0, 0)
    if not found or not 1 <= first <= last:
        raise OptionError(f"--slice: expected a number from 1, a range such as 3:10, or all, got {text!r}.")
    if last > count:
        raise OptionError(f"--slice {text}: INPUT holds {count}, counted from 1.")
    return tuple(range(first - 1, last))


def one_slice(text: str | int | None, page: int | None) -> int | None:
    """Return the slice, counted from 1, that a setting ``slice`` names; ``None`` if it is not given.

    Raises:
        OptionError: If both are given, or several slices are.
    """
    if text is None:
        return None
    if page is not None:
        raise OptionError("--slice and --page both choose a slice. Leave one out.")
    numbers = slice_numbers(text, 10**9) if text != "all" else ()
    if len(numbers) != 1:
        raise OptionError(
            f"--slice {text}: expected one slice here; several are restored by `invdiff solve FILE --slice {text}`."
        )
    return numbers[0] + 1


def of_volume(source: Any, settings: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the numbers of the slices to restore, counted from 0; ``None`` if INPUT is one picture.

    Args:
        source: INPUT.
        settings: ``slice`` and ``page``.

    Raises:
        OptionError: If there are no such slices.
        ValueError: If INPUT is damaged.
    """
    chosen = settings.get("slice")
    if not isinstance(source, Path) or settings.get("simulate") or (source.is_dir() and chosen is None):
        return None
    contents = Source(source).contents
    if contents is None and source.is_dir():
        raise OptionError(
            f"--slice: {source} holds no DICOM files, so it is no series. Leave --slice out to restore its pictures."
        )
    if contents is None:
        if chosen is not None and settings.get("page") is None:
            one_slice(chosen, None)
        return None
    count = contents[1].count
    if settings.get("page") is not None or (chosen is None and count == 1):
        return None
    numbers = slice_numbers("all" if chosen is None else chosen, count)
    return None if len(numbers) == 1 and not source.is_dir() else numbers
