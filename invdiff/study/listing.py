"""The pictures of a folder, and the folders of their results."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from invdiff.formats import FORMATS
from invdiff.io.images import IMAGE_SUFFIXES, image_size
from invdiff.study.manifest import MANIFEST

__all__ = ["PICTURES", "Item", "Listing", "list_items"]

RESULTS = ("run.json", "calibration.json", "operator.json", MANIFEST)  # a folder that has one of these holds results
OF_FORMATS = frozenset(suffix for kind in FORMATS for suffix in kind.suffixes)
COMPRESSED = tuple(end for end in OF_FORMATS if end.endswith(".gz"))
# Those that are written, and others that are read; of an ending of two parts, such as .nii.gz, the last.
PICTURES = IMAGE_SUFFIXES | {".avif", ".heic", ".heif", ".jpe", ".jfif"} | {f".{end.split('.')[-1]}" for end in OF_FORMATS}
OPENED = 5000  # items of which each is opened, to find its size


@dataclass(frozen=True)
class Item:
    """A picture, or the arrays of a measurement, in a folder.

    Attributes:
        name: Its path relative to the folder, with slashes: ``sub/a.jpg``.
        path: Its path.
        cost: Pixels of the picture, to which the work is about proportional; bytes of the files of very many items.
        folder: Folder of its results relative to that of all results: ``sub/a``, or ``sub/a.jpg`` if another item is ``a``.
    """

    name: str
    path: Path
    cost: int
    folder: str


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        items: The items, sorted by name.
        others: Number of other files.
    """

    items: tuple[Item, ...]
    others: int


def list_items(folder: Path, suffixes: Container[str], *, leave_out: Iterable[Path] = ()) -> Listing:
    """Return the files with these suffixes in a folder and the folders in it.

    Hidden files and folders, folders of results, and links to folders are left out.

    Args:
        folder: The folder.
        suffixes: Suffixes of the files in lower case, such as ``".png"``.
        leave_out: Files and folders that are no items, such as masks.

    Raises:
        ValueError: If the results of two items would have the same folder.
        OSError: If a folder cannot be read.
    """
    out = {os.path.realpath(path) for path in leave_out}
    found, others = list[tuple[str, str, int]](), 0
    for name, entry in _walk(os.fspath(folder), out):
        ending = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a million paths
        if ending in suffixes and (ending != ".gz" or name.lower().endswith(COMPRESSED)):
            found.append((name, entry.path, entry.stat().st_size))
        else:
            others += 1
    found.sort()
    if len(found) <= OPENED:
        found = [(name, path, _pixels(path)) for name, path, _ in found]
    return Listing(tuple(_named(found)), others)


def _pixels(path: str) -> int:
    """Return the pixels of a picture, by its header; 1 for a file that is none."""
    try:
        return math.prod(image_size(path))
    except (OSError, ValueError):
        return 1


def _walk(top: str, out: Container[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the files in a folder with their relative names."""
    waiting = [("", top)]
    while waiting:
        before, folder = waiting.pop()
        with os.scandir(folder) as scanned:
            entries = [entry for entry in scanned if not entry.name.startswith(".")]
        if before and any(entry.name in RESULTS for entry in entries):
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if os.path.realpath(entry.path) not in out:
                    waiting.append((f"{before}{entry.name}/", entry.path))
            elif entry.is_file() and (not out or os.path.realpath(entry.path) not in out):
                yield f"{before}{entry.name}", entry


def _named(found: list[tuple[str, str, int]]) -> Iterator[Item]:
    """Yield items, given their names, paths and costs."""
    stems = [os.path.splitext(name)[0] for name, _, _ in found]  # noqa: PTH122
    # Names that differ in case only are one name on some file systems.
    count = Counter(stem.casefold() for stem in stems)
    parents = {name[:place].casefold() for name, _, _ in found for place, letter in enumerate(name) if letter == "/"}
    taken = dict[str, str]()
    for stem, (name, path, cost) in zip(stems, found, strict=True):
        folder = name if count[stem.casefold()] > 1 or stem.casefold() in parents else stem
        other = taken.setdefault(folder.casefold(), name)
        if other != name or folder.casefold() in parents:
            raise ValueError(f"{path}: its results would be in the way of those of another picture, {folder}. Rename it.")
        yield Item(name, Path(path), cost, folder)
