"""The HTML page: template, style, script and data in one file, the same bytes for the same results."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import invdiff
from invdiff.report.colors import tables
from invdiff.report.contents import Contents, Item
from invdiff.report.evaluations import Evaluation
from invdiff.report.item import describe
from invdiff.report.private import private

__all__ = ["GENERATOR", "LARGEST", "SIDE", "Page", "is_report", "make_report", "render"]

GENERATOR = "invdiff report"
LARGEST, SIDE = 10.0, 800  # megabytes, pixels
SMALLEST_SIDE = 96
TRIED = 3  # items from which the size of the page is estimated
ROUNDS = 4  # at most, of making it smaller


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        text: The HTML.
        side: Longest side of its pictures.
        damaged: What is wrong, by name, with results that are left out.
    """

    text: str
    side: int
    damaged: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.text.encode())


def make_report(
    contents: Contents,
    title: str,
    *,
    side: int = SIDE,
    largest: float = LARGEST,
    inputs: Path | None = None,
    evaluations: Sequence[Evaluation] = (),
    progress: Callable[[Sequence[Item]], Iterable[Item]] = lambda items: items,
) -> Page:
    """Return the page of results. Pictures are reduced further until it is small enough, but not below 96 pixels.

    Args:
        contents: The results.
        title: Title of the page.
        side: Longest side of pictures.
        largest: Size of the page in megabytes.
        inputs: Folder of the INPUTs, or INPUT, if they are not where they were.
        evaluations: Figures of images, as tables.
        progress: Wraps the items that are gone through.

    Raises:
        ValueError: If a single result, or every one of a study, is damaged.
        OSError: Likewise, if its files cannot be read.
    """

    def made(items: Iterable[Item], side: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
        described, damaged = list[dict[str, Any]](), dict[str, str]()
        for item in items:
            try:
                described.append(describe(item, side=side, inputs=inputs, evaluations=evaluations))
            except (ValueError, OSError) as error:
                if len(contents.items) == 1 and not contents.damaged:
                    raise
                damaged[item.name] = " ".join(str(error).split())
        return described, damaged

    def page(described: list[dict[str, Any]], damaged: Mapping[str, str], side: int) -> Page:
        damaged = {**contents.damaged, **damaged}
        left_out = [{"name": name, "error": private(text)} for name, text in {**contents.failed, **damaged}.items()]
        data = {
            "title": title,
            "items": described,
            "leftOut": left_out,
            "tables": [evaluation.table() for evaluation in evaluations],
            "colors": tables(),
            "version": invdiff.__version__,
        }
        return Page(render(title, data), side, damaged)

    limit = largest * 1e6
    if len(contents.items) > TRIED:
        few = [contents.items[k * (len(contents.items) - 1) // (TRIED - 1)] for k in range(TRIED)]
        tried, _ = made(few, side)
        size = page(tried, {}, side).size * len(contents.items) / max(len(tried), 1)
        side = _smaller(side, limit / size)
    result = page(*made(progress(contents.items), side), side)
    for _ in range(ROUNDS):
        if result.size <= limit or side <= SMALLEST_SIDE:
            break
        side = _smaller(side, limit / result.size)
        result = page(*made(progress(contents.items), side), side)
    if len(result.damaged) == len(contents.items) + len(contents.damaged):
        name, message = next(iter(result.damaged.items()))
        raise ValueError(f"none of the {len(result.damaged)} results can be shown. {name}: {message}")
    return result


def _smaller(side: int, ratio: float) -> int:
    """Return the side at which a page has ``ratio`` times its size, which grows with the number of pixels."""
    return side if ratio >= 1 else min(side, max(SMALLEST_SIDE, int(0.97 * side * ratio**0.5)))


def render(title: str, data: Mapping[str, Any]) -> str:
    """Return the page that shows ``data``. Text of files is data alone, never part of the markup or the script."""
    template, style, script = (_part(f"page.{ending}") for ending in ("html", "css", "js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "POLICY": policy,
        "GENERATOR": GENERATOR,
        "TITLE": html.escape(title),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": _inert(data),
    }
    # In one pass: what one part holds is no place for another.
    pieces = template.split("%%")
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def is_report(path: Path) -> bool:
    """Return whether a file is a page of this module."""
    with path.open("rb") as file:
        head = file.read(1000)
    return head.startswith(b"<!DOCTYPE html>") and f'name="generator" content="{GENERATOR}"'.encode() in head


def _part(name: str) -> str:
    return files("invdiff.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _inert(data: Mapping[str, Any]) -> str:
    """Return JSON without characters that could end the element that it stands in."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
