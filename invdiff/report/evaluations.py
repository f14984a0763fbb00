"""Figures of ``invdiff evaluate --json`` as tables of the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Evaluation", "read_evaluation"]

HEADS = {
    "psnr": "PSNR [dB]",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "lpips": "LPIPS",
    "dists": "DISTS",
    "fid": "FID",
    "kid": "KID",
    "crps": "CRPS",
}
LARGEST = 256 * 2**20  # bytes


class Evaluation:
    """The figures of one file of ``invdiff evaluate --json``.

    Attributes:
        title: What was compared.
        names: Names of the figures.
        rows: Figures of each image, by its name.
        summary: Figures over all images, by their names.
    """

    def __init__(self, title: str, rows: Mapping[str, Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
        self.title, self.rows, self.summary = title, rows, summary
        names = [name for row in (*rows.values(), summary) for name, value in row.items() if _is_figure(value)]
        self.names = list(dict.fromkeys(names))

    def table(self) -> dict[str, Any]:
        """Return the table of all images, with their mean in its last row."""
        rows = [[name, *self._cells(row)] for name, row in self.rows.items()]
        last = [["mean", *self._cells(self.summary)]] if self.summary else []
        return {"title": self.title, "heads": ["image", *self._heads()], "rows": rows + last, "note": "", "total": bool(last)}

    def table_of(self, *names: str | None) -> dict[str, Any] | None:
        """Return the figures of the image that has one of these names, or ``None``."""
        row = next((self.rows[name] for name in names if name is not None and name in self.rows), None)
        if row is None:
            return None
        pairs = [[head, cell] for head, cell in zip(self._heads(), self._cells(row), strict=True) if cell]
        return {"title": self.title, "heads": ["figure", "value"], "rows": pairs, "note": ""}

    def _heads(self) -> list[str]:
        return [HEADS.get(name, name.replace("_", " ")) for name in self.names]

    def _cells(self, row: Mapping[str, Any]) -> list[str]:
        return [_cell(row.get(name)) for name in self.names]


def read_evaluation(path: Path) -> Evaluation:
    """Return what a file of ``invdiff evaluate --json`` says.

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
    images = report.get("images") if isinstance(report, dict) else None
    if not isinstance(images, list) or not all(isinstance(row, dict) and isinstance(row.get("name"), str) for row in images):
        raise ValueError(f"{expected}, which lists images by name.")
    mean = report.get("mean")
    restored = Path(str(report.get("restored") or path.name)).name
    return Evaluation(f"Evaluation of {restored}", {row["name"]: row for row in images}, mean if isinstance(mean, dict) else {})


def _is_figure(value: Any) -> bool:
    return bool(_cell(value)) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    """Return a figure as text: a number, ``inf``, or a mean with the ends of its interval."""
    if isinstance(value, bool):
        return ""
    if isinstance(value, int | float):
        return f"{value:.4g}"
    if value in ("inf", "-inf"):
        return str(value)
    if isinstance(value, dict):
        middle = next((value[name] for name in ("mean", "value", "estimate") if name in value), None)
        ends = next(
            (value[name] for name in ("interval", "ci", "confidence") if name in value), [value.get("low"), value.get("high")]
        )
        return f"{_cell(middle)}{_ends(ends)}"
    return ""


def _ends(ends: Any) -> str:
    if isinstance(ends, Sequence) and not isinstance(ends, str) and len(ends) == 2 and all(map(_cell, ends)):
        return f" ({_cell(ends[0])} to {_cell(ends[1])})"
    return ""
