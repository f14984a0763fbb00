"""Tables for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import SEPARATING_LINE, tabulate

from invdiff.evaluation.bootstrap import Summary
from invdiff.evaluation.columns import COLUMNS, SCORES
from invdiff.evaluation.comparison import Comparison

__all__ = ["comparison_table", "of_set_line", "tables"]

MINUS, INTERVAL = "-", "95 % interval"


def tables(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], summary: Mapping[str, Summary]) -> str:
    """Return the figures of every image, with means and intervals: one table of the estimates, one of the samples."""
    texts = []
    of_images = [name for name in columns if name not in SCORES]
    of_samples = [name for name in columns if name in SCORES and COLUMNS[name].table]
    if of_images:
        texts.append(_table(rows, of_images, summary))
    if of_samples:
        scored = [row for row in rows if any(row.get(name) is not None for name in of_samples)]
        texts.append(_table(scored, of_samples, summary))
    return "\n\n".join(texts)


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], summary: Mapping[str, Summary]) -> str:
    lines: list[Any] = [[row["name"], *(_text(name, row.get(name)) for name in columns)] for row in rows]
    if len(rows) > 1:
        found = [summary.get(name) for name in columns]
        lines.append(SEPARATING_LINE)
        lines.append([f"mean of {len(rows)}", *(_of(name, item) for name, item in zip(columns, found, strict=True))])
        ends = [[_end(name, item, end) for name, item in zip(columns, found, strict=True)] for end in (0, 1)]
        lines += [["95 % low", *ends[0]], ["95 % high", *ends[1]]] if any(ends[0]) else []
    headers = ["image", *(COLUMNS[name].header for name in columns)]
    return tabulate(lines, headers=headers, disable_numparse=True, colalign=("left", *("right" for _ in columns)))


def comparison_table(comparison: Comparison, columns: Sequence[str]) -> str:
    """Return the figures of several restorations side by side, with their differences to the first."""
    lines: list[Any] = []
    for name in columns:
        if not COLUMNS[name].table or name == "samples":
            continue
        for k, side in enumerate(comparison.sides):
            value, against = side.summary.get(name), side.difference.get(name)
            lines.append(
                [
                    _title(name) if k == 0 else "",
                    str(side.restored),
                    _of(name, value),
                    _range(name, value),
                    _of(name, against, sign=True),
                    _range(name, against, sign=True),
                ]
            )
    for name in dict.fromkeys(name for side in comparison.sides for name in side.of_set):
        for k, side in enumerate(comparison.sides):
            lines.append([_title(name) if k == 0 else "", str(side.restored), _text(name, side.of_set.get(name)), "", "", ""])
    headers = ["", "restored", f"mean of {len(comparison.images)}", INTERVAL, "minus first", INTERVAL]
    return tabulate(lines, headers=headers, disable_numparse=True, colalign=("left", "left", *4 * ("right",)))


def of_set_line(values: Mapping[str, float], images: int) -> str:
    """Return the metrics of a set of images in one line."""
    return ", ".join(f"{_title(name)} {_text(name, value)}" for name, value in values.items()) + f" ({images} images)"


def _title(name: str) -> str:
    return COLUMNS[name].header.replace("-\n", "").replace("/\n", "/").replace("\n", " ")


def _text(name: str, value: float | None, *, sign: bool = False) -> str:
    if value is None or math.isnan(value):
        return MINUS
    return f"{value:{'+' if sign else ''}.{COLUMNS[name].digits}f}"


def _of(name: str, summary: Summary | None, *, sign: bool = False) -> str:
    return "" if summary is None else _text(name, summary.value, sign=sign)


def _end(name: str, summary: Summary | None, end: int) -> str:
    return "" if name == "samples" or summary is None or summary.interval is None else _text(name, summary.interval[end])


def _range(name: str, summary: Summary | None, *, sign: bool = False) -> str:
    if summary is None or summary.interval is None:
        return ""
    return " to ".join(_text(name, end, sign=sign) for end in summary.interval)
