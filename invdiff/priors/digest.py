"""The SHA-256 of a checkpoint: of a file, or of all files of a folder."""

from __future__ import annotations

import functools
import hashlib
import time
from pathlib import Path

__all__ = ["digest", "stamp"]

PARTS = (".json", ".safetensors", ".bin")  # of a folder
Stamp = list[tuple[str, int, int]]
SETTLED = 2 * 10**9  # nanoseconds since a file was written


def stamp(path: Path) -> Stamp:
    """Return what changes when a file does, or a file of a folder: names, sizes, times."""
    files = sorted(p for p in path.rglob("*") if p.suffix in PARTS and p.is_file()) if path.is_dir() else [path]
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def digest(path: Path, since: Stamp | None = None) -> str:
    """Return the SHA-256 of a file; of a folder, that of the names and digests of its configurations and weights.

    Where the file is no longer what it was at the stamp ``since``, it is not that of what was read then: the answer says so.
    """
    now = stamp(path) if path.exists() else []
    if since not in (None, now):
        return "unknown: the file has changed since it was read"
    if not path.is_dir():
        return _digest(now[0])
    listing = "\n".join(f"{Path(part[0]).relative_to(path).as_posix()} {_digest(part)}" for part in now)
    return hashlib.sha256(listing.encode()).hexdigest()


def _digest(part: tuple[str, int, int]) -> str:
    # What was written a moment ago may be written again within one tick of the clock of its file system.
    settled = time.time_ns() - part[2] > SETTLED
    return _known(part) if settled else _read(part)


def _read(part: tuple[str, int, int]) -> str:
    with Path(part[0]).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_known = functools.lru_cache(_read)
