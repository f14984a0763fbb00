"""The manifest of a folder of results: one line of JSON for each picture, from which the next run knows what is done."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from invdiff.io.images import atomic_write

if sys.platform != "win32":
    import fcntl

__all__ = ["MANIFEST", "Manifest", "merge_manifests", "read_manifest"]

MANIFEST = "manifest.jsonl"
TRIES, PAUSE = 40, 0.05  # seconds: another process that has ended merges at this moment
Entry = Mapping[str, Any]


class Manifest:
    """The manifest, to which a process adds lines; a context.

    Every process writes a file of its own, ``manifest.jsonl`` or ``manifest.NAME.jsonl``; :func:`merge_manifests` makes one
    file of those whose writers have ended. A line is written by one call, so that a killed process leaves at most its last line
    torn, which readers ignore.

    Args:
        folder: Folder of the results, which exists.
        writer: Name of this process among several: ``"1-of-4"``.
        header: First line: what all items have in common.

    Attributes:
        entries: The last entry of each item by name, from all files.
    """

    def __init__(self, folder: Path, *, writer: str | None, header: Entry) -> None:
        self.folder, self.header = folder, header
        self.path = folder / (MANIFEST if writer is None else f"manifest.{writer}.jsonl")
        self.entries: dict[str, Entry] = {}
        self._file: int | None = None

    def __enter__(self) -> Self:
        self.entries = read_manifest(self.folder)
        merge_manifests(self.folder, self.header)
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        with contextlib.suppress(OSError):
            merge_manifests(self.folder, self.header)

    def add(self, entry: Entry) -> None:
        """Add the entry of an item, which replaces earlier ones of this name."""
        self.entries[entry["name"]] = entry
        assert self._file is not None
        os.write(self._file, (json.dumps(entry) + "\n").encode())

    def _open(self) -> None:
        new = not self.path.exists()
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        if not _lock(self._file):
            os.close(self._file)
            self._file = None
            raise ValueError(
                f"{self.folder}: another run is writing its results there ({self.path.name}). Wait for its end, or give each "
                "run a share of the pictures with --shard."
            )
        end = os.lseek(self._file, 0, os.SEEK_END)
        if new or not end:
            os.write(self._file, (json.dumps(self.header) + "\n").encode())
        elif os.pread(self._file, 1, end - 1) != b"\n":  # torn by a kill
            os.write(self._file, b"\n")


def merge_manifests(folder: Path, header: Entry) -> None:
    """Make one file of those whose writers have ended, with one entry for each item, sorted by name.

    Nothing is done while a process writes the file that all are merged into.
    """
    with contextlib.ExitStack() as stack:
        main = folder / MANIFEST
        if main.exists() and not stack.enter_context(_locked(main, tries=TRIES)):
            return
        free = [path for path in _parts(folder) if path != main and stack.enter_context(_locked(path))]
        if not free and _is_sorted(main, header):
            return
        entries = dict(sorted(_read([main, *free]).items()))
        with atomic_write(main) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in (header, *entries.values()))
        for path in free:
            path.unlink(missing_ok=True)


def read_manifest(folder: Path) -> dict[str, Entry]:
    """Return the last entry of each item by name, from the manifest of a folder and those of the processes that write it."""
    return _read(_parts(folder))


def _parts(folder: Path) -> list[Path]:
    """Return the files of the manifest, the merged one first."""
    found = sorted(folder.glob("manifest.*.jsonl"))
    return [path for path in (folder / MANIFEST, *found) if path.is_file()]


def _read(paths: list[Path]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            for line in file:
                entry = _parsed(line)
                if entry is not None and isinstance(entry.get("name"), str):
                    entries[entry["name"]] = entry
    return entries


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return the entry of a line; ``None`` if it is torn or no entry."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _is_sorted(path: Path, header: Entry) -> bool:
    """Return whether a file holds this header and then one entry for each item, sorted by name."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        if _parsed(file.readline()) != json.loads(json.dumps(header)):
            return False
        last = ""
        for line in file:
            entry = _parsed(line)
            if entry is None or not str(entry.get("name", "")) > last:
                return False
            last = entry["name"]
    return True


@contextlib.contextmanager
def _locked(path: Path, *, tries: int = 1) -> Iterator[bool]:
    """Hold the lock of a file; yield whether it was free, and the file is still the one of this name.

    With several ``tries``, wait in between: another process may be about to replace the file.
    """
    held = None
    for left in reversed(range(tries)):
        held = _open_locked(path)
        if held is not None or not left:
            break
        time.sleep(PAUSE)
    try:
        yield held is not None
    finally:
        if held is not None:
            os.close(held)


def _open_locked(path: Path) -> int | None:
    """Return the descriptor of a file whose lock is held, ``None`` if another process has it or has replaced the file."""
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        if _lock(file) and os.path.samestat(os.fstat(file), path.stat()):
            return file
    os.close(file)
    return None


def _lock(file: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
