"""The INPUT of a run: found again by its digest, since results do not hold it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from invdiff.io.paths import sha256_of
from invdiff.report.contents import Item

__all__ = ["find_input"]


def find_input(item: Item, inputs: Path | None) -> Path | None:
    """Return the file that a run read, or ``None``: a file of its name with the digest in the record.

    It is looked for at the recorded path, from the current folder and from those around the results, and in ``inputs``, a
    folder of INPUTs or the file itself.
    """
    recorded = item.record["files"].get("input")
    if not isinstance(recorded, dict) or not isinstance(recorded.get("path"), str):
        return None
    tried = set[Path]()
    for path in _places(item, recorded["path"], inputs):
        if path not in tried and path.is_file() and sha256_of(path) == recorded.get("sha256"):
            return path
        tried.add(path)
    return None


def _places(item: Item, recorded: str, inputs: Path | None) -> Iterator[Path]:
    name = PureWindowsPath(recorded).name
    if inputs is not None:
        yield inputs
        yield from (inputs / below for below in (item.input_name, recorded, name) if below)
    yield Path(recorded)
    yield from (folder / below for folder in item.folder.resolve().parents[:4] for below in (recorded, name))
