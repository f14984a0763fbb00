"""Figures of ``invdiff evaluate --json`` as tables of the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

__all__ = ["Evaluation", "read_evaluation"]

HEADS = {
    "psnr": "PSNR [dB]",
    "ssim": "SSIM",
    "ms-ssim": "MS-SSIM",
    "lpips": "LPIPS",
    "dists": "DISTS",
    "fid": "FID",
    "kid": "KID",
    "crps": "CRPS",
    "coverage_50": "in 50 %",
    "coverage_90": "in 90 %",
    "psnr_samples": "PSNR of samples",
    "psnr_mean": "PSNR of mean",
}
LARGEST = 256 * 2**20  # bytes


class Evaluation:
    """The figures of one restoration, or a comparison of several.

    Attributes:
        title: What it is about.
        first: Head of the first column.
        names: Names of the figures.
        rows: Figures by the name of an image, or of a restoration.
        summary: Figures over all images, by their names.
    """

    def __init__(
        self, title: str, rows: Mapping[str, Mapping[str, Any]], summary: Mapping[str, Any], *, first: str = "image"
    ) -> None:
        self.title, self.rows, self.summary, self.first = title, rows, summary, first
        names = [name for row in (*rows.values(), summary) for name, value in row.items() if name != "name" and _cell(value)]
        self.names = list(dict.fromkeys(names))

    def table(self) -> dict[str, Any]:
        """Return the table of all rows, with their mean in the last row."""
        rows = [[name, *self._cells(row)] for name, row in self.rows.items()]
        last = [["mean", *self._cells(self.summary)]] if self.summary else []
        return {
            "title": self.title,
            "heads": [self.first, *self._heads()],
            "rows": rows + last,
            "note": "",
            "total": bool(last),
        }

    def table_of(self, *names: str) -> dict[str, Any] | None:
        """Return the figures of the image that has one of these names, or ``None``."""
        row = next((self.rows[name] for name in names if name in self.rows), None)
        if row is None or self.first != "image":
            return None
        pairs = [[head, cell] for head, cell in zip(self._heads(), self._cells(row), strict=True) if cell]
        return {"title": self.title, "heads": ["figure", "value"], "rows": pairs, "note": ""}

    def _heads(self) -> list[str]:
        return [HEADS.get(name, name.replace("_", " ")) for name in self.names]

    def _cells(self, row: Mapping[str, Any]) -> list[str]:
        return [_cell(row.get(name)) for name in self.names]


def read_evaluation(path: Path) -> list[Evaluation]:
    """Return what a file of ``invdiff evaluate --json`` says: of every restoration, and of their comparison if it has several.

    Raises:
        ValueError: If it is no such file.
        OSError: If it cannot be read.
    """
    expected = f"{path}: expected the JSON of `invdiff evaluate --json`"
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{expected}, got a file of more than {LARGEST >> 20} MiB.")
    try:
        report = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{expected}, got a file that is no JSON.") from None
    found = [_of_images(record, path) for record in (report, *_listed(report, "compared"))]
    if None in found:
        raise ValueError(f"{expected}, which lists images by name.")
    comparison = report.get("comparison")
    sides = [side for side in _listed(comparison, "restored") if isinstance(side, dict)]
    rows: dict[str, Mapping[str, Any]] = {_name(side, path): _summary(side) for side in sides}
    rows |= {f"{_name(side, path)} minus {_name(sides[0], path)}": _summary(side.get("difference")) for side in sides[1:]}
    if rows:
        count = len(_listed(comparison, "images"))
        found.append(Evaluation(f"Comparison of {count} images", rows, {}, first="restoration"))
    return [evaluation for evaluation in found if evaluation is not None]


def _of_images(record: Any, path: Path) -> Evaluation | None:
    images = _listed(record, "images")
    if not isinstance(record, dict) or not isinstance(record.get("images"), list):
        return None
    if not all(isinstance(row, dict) and isinstance(row.get("name"), str) for row in images):
        return None
    return Evaluation(f"Evaluation of {_name(record, path)}", {row["name"]: row for row in images}, _summary(record))


def _summary(record: Any) -> dict[str, Any]:
    """Return the means in a record, with the ends of their intervals if it has them, and figures of the images as a set."""
    if not isinstance(record, dict):
        return {}
    mean, interval, of_set = (
        part if isinstance(part := record.get(name), dict) else {} for name in ("mean", "interval", "set")
    )
    return {**{name: {"mean": value, "interval": interval.get(name)} for name, value in mean.items()}, **of_set}


def _listed(record: Any, name: str) -> list[Any]:
    part = record.get(name) if isinstance(record, dict) else None
    return part if isinstance(part, list) else []


def _name(record: Mapping[str, Any], path: Path) -> str:
    return PureWindowsPath(str(record.get("restored") or path.name)).name


def _cell(value: Any) -> str:
    """Return a figure as text: a number, ``inf``, or a mean with the ends of its interval; empty if it is none."""
    if isinstance(value, bool):
        return ""
    if isinstance(value, int | float):
        return f"{value:.4g}"
    if value in ("inf", "-inf"):
        return str(value)
    if not isinstance(value, dict):
        return ""
    ends = value.get("interval")
    low, high = map(_cell, ends) if isinstance(ends, list) and len(ends) == 2 else ("", "")
    return f"{_cell(value.get('mean'))}{f' ({low} to {high})' if low and high and low != high else ''}"
