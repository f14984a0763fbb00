"""The files that a run read: found again by their digests, since results do not hold them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from invdiff.io.paths import sha256_of
from invdiff.report.contents import Item

__all__ = ["find_read"]


def find_read(item: Item, name: str, inputs: Path | None) -> Path | None:
    """Return a file that a run read, or ``None``: a file of its name with the digest in the record.

    It is looked for at the recorded path, from the current folder and from those around the results, and in ``inputs``, a
    folder or the file itself.

    Args:
        item: The results.
        name: Name of the file in the record, such as ``input`` or ``kernel``.
        inputs: Where to look first.
    """
    recorded = item.record["files"].get(name)
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
