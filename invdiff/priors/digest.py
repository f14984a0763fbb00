"""The SHA-256 of a checkpoint: of a file, or of all files of a folder."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

__all__ = ["digest"]

PARTS = (".json", ".safetensors", ".bin")  # of a folder


def digest(path: Path) -> str:
    """Return the SHA-256 of a file; of a folder, that of the names and digests of its configurations and weights."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in PARTS and p.is_file())
        listing = "\n".join(f"{p.relative_to(path).as_posix()} {digest(p)}" for p in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    stat = path.stat()
    return _digest(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache
def _digest(path: Path, _modified: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
