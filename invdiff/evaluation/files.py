"""Files of an evaluation: JSON with everything, and CSV with a line for each image."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from invdiff.evaluation.bootstrap import LEVEL, Summary
from invdiff.evaluation.columns import COLUMNS
from invdiff.evaluation.comparison import Comparison
from invdiff.evaluation.run import Evaluation
from invdiff.io.images import atomic_write

__all__ = ["as_json", "comparison_record", "is_report", "is_table", "record", "write_csv", "write_json"]


def record(evaluation: Evaluation, summary: Mapping[str, Summary], of_set: Mapping[str, float]) -> dict[str, Any]:
    """Return the figures of one restoration for JSON."""
    return {
        "restored": str(evaluation.restored),
        "images": list(evaluation.rows.values()),
        **_summary_record(summary),
        "set": dict(of_set),
        "unpaired": [str(path) for path in evaluation.pairing.unpaired],
        "failed": evaluation.failed,
        "incomplete": evaluation.incomplete,
    }


def comparison_record(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison for JSON."""
    return {
        "images": comparison.images,
        "left_out": comparison.left_out,
        "restored": [
            {
                "restored": str(side.restored),
                **_summary_record(side.summary),
                "set": side.of_set,
                "difference": _summary_record(side.difference),
            }
            for side in comparison.sides
        ],
    }


def as_json(report: Mapping[str, Any]) -> str:
    """Return JSON, with infinite values as the strings ``inf`` and ``-inf`` and undefined ones as ``null``."""
    return json.dumps(_plain(report), indent=2, allow_nan=False)


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(as_json(report) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write one line per image atomically; figures that could not be computed are left empty."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({name: _text(value) for name, value in row.items()} for row in rows)


def is_report(path: Path) -> bool:
    """Return whether a file was written by :func:`write_json`."""
    try:
        report = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(report, dict) and {"reference", "restored", "images", "mean"} <= report.keys()


def is_table(path: Path) -> bool:
    """Return whether a file was written by :func:`write_csv`."""
    with path.open("rb") as file:
        first, *rest = file.readline(1000).decode(errors="replace").strip().split(",")
    return first == "name" and set(rest) <= {"restored", *COLUMNS}


def _summary_record(summary: Mapping[str, Summary]) -> dict[str, Any]:
    return {
        "mean": {name: item.value for name, item in summary.items()},
        "interval": {name: item.interval for name, item in summary.items()},
        "interval_level": LEVEL,
    }


def _text(value: Any) -> Any:
    """Return a value for CSV; in names of files, bytes that are not UTF-8 become ``\\xff``."""
    return os.fsencode(value).decode(errors="backslashreplace") if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    # JSON has no infinity. Unlike null, the string "inf" preserves the value, and float("inf") reads it back.
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value
