"""SHA-256 digest of a checkpoint file, or of all files of a checkpoint folder."""

from __future__ import annotations

import functools
import hashlib
import threading
import time
from concurrent.futures import Future
from pathlib import Path

__all__ = ["CHANGED", "Stamp", "begin_digest", "digest", "stamp"]

PARTS = (".json", ".safetensors", ".bin", ".model", "merges.txt")  # endings of the files of a folder that count
Stamp = list[tuple[str, int, int]]
CHANGED = "unknown: the file has changed since it was read"
SETTLED = 2 * 10**9  # nanoseconds since the last write, after which a digest may be cached


def stamp(path: Path) -> Stamp:
    """Return the names, sizes and modification times of a file, or of the files of a folder, to detect changes."""
    # A checkpoint is at most one folder deep. Any folder may be named by mistake, even that of all files.
    listed = (p for pattern in ("*", "*/*") for p in path.glob(pattern) if p.name.endswith(PARTS) and p.is_file())
    files = sorted(listed) if path.is_dir() else [path]
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def digest(path: Path, since: Stamp | None = None) -> str:
    """Return the SHA-256 of a file, or of the names and digests of the configurations and weights in a folder.

    If the file no longer matches the stamp ``since``, its digest is not the digest of the data read earlier, and a text that
    says so is returned instead.
    """
    now = stamp(path) if path.exists() else []
    if since not in (None, now):
        return CHANGED
    if not path.is_dir():
        return _digest(now[0])
    listing = "\n".join(f"{Path(part[0]).relative_to(path).as_posix()} {_digest(part)}" for part in now)
    return hashlib.sha256(listing.encode()).hexdigest()


def begin_digest(path: Path, since: Stamp) -> Future[str]:
    """Compute :func:`digest` in a thread, while the caller reads the same file; :meth:`Future.result` waits for it.

    The thread ends with the process: nothing waits for the digest of a file that turns out to be no checkpoint.
    """
    found: Future[str] = Future()

    def run() -> None:
        try:
            found.set_result(digest(path, since))
        except OSError as error:
            found.set_exception(error)

    threading.Thread(target=run, name="digest", daemon=True).start()
    return found


def _digest(part: tuple[str, int, int]) -> str:
    # A file written a moment ago may change again within one tick of the file system's clock: its digest is not cached.
    settled = time.time_ns() - part[2] > SETTLED
    return _known(part) if settled else _read(part)


def _read(part: tuple[str, int, int]) -> str:
    with Path(part[0]).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_known = functools.lru_cache(_read)
