"""Results packed in tar files, in the naming of WebDataset: a million pictures in a few thousand files."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from invdiff.io.signals import held_back
from invdiff.restoration.pictures import RECORD
from invdiff.study.listing import Item
from invdiff.study.placing import Workspace

__all__ = ["Tars"]

ENDING = ".tar"


class Tars:
    """Groups of consecutive items, each in a tar file ``results-000000.tar`` once all of the group are done or have failed.

    The files of an item have its name up to the first dot, the key of WebDataset: ``sub/a.mean.png``, ``sub/a.run.json``. Dots
    in the name itself become ``%2E``. Equal results give equal bytes.

    Args:
        root: Folder of all results.
        items: All items.
        size: Items in a file.
    """

    def __init__(self, root: Path, items: Sequence[Item], size: int) -> None:
        self.root = root
        starts = range(0, len(items), size)
        digits = max(6, len(str(len(starts))))
        names = [f"results-{number:0{digits}d}{ENDING}" for number in range(len(starts))]
        self.members = {name: items[start : start + size] for name, start in zip(names, starts, strict=True)}
        self._keys: dict[str, dict[str, str]] = {}

    @property
    def units(self) -> list[Item]:
        """The groups as items, for sharing them among processes: a group is done by one process."""
        costs = {name: sum(item.cost for item in members) for name, members in self.members.items()}
        return [Item(name, self.root / name, cost, name) for name, cost in costs.items()]

    def holds(self, name: str, item: Item, key: str) -> bool:
        """Return whether the file of a group holds the results of an item with this key."""
        if name not in self._keys:
            self._keys[name] = dict(_keys_of(self.root / name))
        return self._keys[name].get(_prefix(item)) == key

    def pack(self, name: str, place: Workspace) -> None:
        """Move the results of a group that are in folders into its file, where they replace earlier ones.

        Killed at any moment, the process leaves every result in the file, in its folder, or in both.
        """
        loose = [item for item in self.members[name] if (self.root / item.folder / RECORD).is_file()]
        if not loose:
            return
        contents = _contents(self.root / name)
        for item in loose:
            folder = self.root / item.folder
            contents[_prefix(item)] = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        wanted = [_prefix(item) for item in self.members[name]]
        part = place.folder / name
        with tarfile.open(part, "w") as tar:
            for prefix in sorted(contents, key=lambda prefix: (prefix not in wanted, prefix)):
                for file, content in sorted(contents[prefix].items()):
                    facts = tarfile.TarInfo(f"{prefix}.{file}")
                    facts.size, facts.mode = len(content), 0o644
                    tar.addfile(facts, io.BytesIO(content))
        self._keys.pop(name, None)
        with held_back():
            os.replace(part, self.root / name)
        for item in loose:
            self._remove(self.root / item.folder, place)

    def _remove(self, folder: Path, place: Workspace) -> None:
        """Remove a folder of results, and the folders around it that are then empty."""
        old = place.folder / "packed"
        os.replace(folder, old)
        shutil.rmtree(old, ignore_errors=True)
        for parent in folder.parents:
            if parent == self.root:
                return
            try:
                parent.rmdir()
            except OSError:  # not empty
                return


def _prefix(item: Item) -> str:
    folder, slash, name = item.folder.rpartition("/")
    return f"{folder}{slash}{name.replace('.', '%2E')}"


def _files(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield the prefix, the name and the content of the files in a tar file, none if there is no such file."""
    if not path.exists():
        return
    try:
        with tarfile.open(path) as tar:
            for facts in tar:
                folder, slash, name = facts.name.rpartition("/")
                stem, dot, rest = name.partition(".")
                file = tar.extractfile(facts)
                if file is None or not dot:
                    raise ValueError
                yield f"{folder}{slash}{stem}", rest, file.read()
    except (tarfile.TarError, ValueError, EOFError):
        raise ValueError(
            f"{path} is damaged or was not written by this program: move it away, or choose another folder with -o."
        ) from None


def _contents(path: Path) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    for prefix, name, content in _files(path):
        found.setdefault(prefix, {})[name] = content
    return found


def _keys_of(path: Path) -> Iterator[tuple[str, str]]:
    for prefix, name, content in _files(path):
        if name == RECORD:
            try:
                yield prefix, str(json.loads(content)["key"])
            except (ValueError, KeyError, TypeError):
                continue
