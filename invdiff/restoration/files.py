"""The files that a run reads, with the digests of what was read."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invdiff.io.paths import sha256_of
from invdiff.io.portable import portable
from invdiff.priors.errors.files import errors_beside
from invdiff.priors.save import BUNDLED

__all__ = ["FilesRead", "code_files", "prior_files"]

Stamp = tuple[int, ...]


class FilesRead:
    """Digests of files, taken before they are read, and certain to be those of what was read once :meth:`check` has passed.

    So a record never holds the digest of a file that appeared later under the same name, and no file is needed twice.

    Attributes:
        digests: Path and SHA-256 digest of each file by name, as in ``run.json``.
    """

    def __init__(self) -> None:
        self.digests: dict[str, dict[str, str]] = {}
        self._stamps: dict[Path, Stamp | None] = {}

    def add(self, files: Mapping[str, Any]) -> None:
        """Take the digests of the files by name; what is no path of a file is left out, and the reader of it will say so."""
        for name, path in files.items():
            if isinstance(path, Path) and path.is_file():
                self._stamps[path] = stamp = _stamp(path)
                self.digests[name] = {"path": portable(path), "sha256": _digest(path, stamp)}

    def check(self) -> None:
        """Raise an error, before the work, if a file has changed since its digest was taken.

        Raises:
            ValueError: If one has.
        """
        for path, stamp in self._stamps.items():
            if _stamp(path) != stamp:
                raise ValueError(f"{path} changed while it was read. Wait until it is complete, then run the command again.")

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(self._stamps)


def code_files(settings: Mapping[str, Any]) -> dict[str, Path]:
    """Return the files of user code that are loaded, such as the one in ``mine.py:MyProblem``."""
    texts = {name: str(settings.get(name)).rpartition(":")[0] for name in ("problem", "method", "prior")}
    return {name: Path(text) for name, text in texts.items() if text.endswith(".py")}


def prior_files(prior: Any) -> tuple[Path, ...]:
    """Return the files of a prior given by name or path: its checkpoint, and its measured error if there is one."""
    if not isinstance(prior, str | Path):
        return ()
    path = BUNDLED.get(str(prior), Path(prior))
    if not path.exists():  # a place in a file of code, the name of a package's prior, or a hub id
        return ()
    parts = [part for part in path.rglob("*") if part.is_file()] if path.is_dir() else [path]
    return *parts, errors_beside(path)


@functools.lru_cache(maxsize=256)
def _digest(path: Path, stamp: Stamp | None) -> str:
    """Return the digest of a file; that of a volume is asked for once for each of its slices."""
    return sha256_of(path)


def _stamp(path: Path) -> Stamp | None:
    """Return what changes when a file is replaced or written to; ``None`` if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
