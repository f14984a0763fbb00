"""Hidden folders for files that are not complete yet, which the next run removes if their process has died."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from invdiff.io.signals import held_back

if sys.platform != "win32":
    import fcntl

__all__ = ["COMPLETE", "Scratch", "hidden", "sweep"]

SUFFIX = ".invdiff-part"
LOCK = "lock"
COMPLETE = "complete"  # a folder within a hidden one, whose files are being moved to their places
LONGEST = 200  # bytes of a name; file systems allow 255
TRIES = 100
WAITS, PAUSE = 20, 0.01  # seconds: another process holds the lock for a moment while it looks whether the owner is alive


def hidden(path: Path) -> Path:
    """Return the path of the hidden folder that stands for ``path`` while it is being written."""
    name = path.name if len(os.fsencode(path.name)) <= LONGEST else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    return path.with_name(f".{name}{SUFFIX}")


class Scratch:
    """A hidden folder that belongs to this process as long as it lives: it holds a locked file, and the kernel drops the lock.

    Nothing is created before :meth:`take`. Call :meth:`release` in a ``finally`` clause, whether :meth:`take` returned or not.

    Args:
        folder: The folder, named by :func:`hidden`. Its parents are created, and removed if they stay empty.

    Attributes:
        mode: Permissions of new files, by the ``umask``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.mode = folder, 0o600
        self._lock: int | None = None
        self._made: list[Path] = []

    def take(self, finish: Callable[[Path], None] | None = None) -> bool:
        """Create the folder and return true, or return false if another process that is alive has it.

        Args:
            finish: See :func:`sweep`.

        Raises:
            OSError: If the folder cannot be created.
        """
        with held_back():
            missing = [folder for folder in self.folder.parents if not folder.exists()]
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self._made += missing
            waits = 0
            for _ in range(TRIES):  # again if another process removed what it took for a leftover
                try:
                    self.folder.mkdir()
                except FileExistsError:
                    if not _remove_if_dead(self.folder, finish):
                        waits += 1
                        if waits > WAITS:
                            return False
                        time.sleep(PAUSE)
                    continue
                self._lock = _create_locked(self.folder / LOCK)
                if self._lock is not None:
                    self.mode = os.fstat(self._lock).st_mode & 0o777
                    return True
        return False

    def release(self) -> None:
        """Remove the folder with everything in it, and the parents made for it if they are empty."""
        with held_back():
            if self._lock is not None:
                _remove(self.folder)
                os.close(self._lock)
                self._lock = None
            for folder in self._made:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # fails if the folder is not empty
            self._made.clear()


def sweep(parent: Path, finish: Callable[[Path], None] | None = None) -> None:
    """Remove the hidden folders in ``parent`` whose processes have died; those of living ones are left alone.

    Args:
        parent: A folder.
        finish: Called with a hidden folder before it is removed, if its process died while it moved complete results out of it.
            Default: such a folder is kept.
    """
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        found = [Path(entry.path) for entry in entries if entry.name.startswith(".") and entry.name.endswith(SUFFIX)]
        for folder in found:
            _remove_if_dead(folder, finish)


def _remove_if_dead(folder: Path, finish: Callable[[Path], None] | None) -> bool:
    """Remove a hidden folder unless its process is alive; return whether it is gone."""
    if folder.is_symlink():  # made by somebody else, and would lead out of here
        return False
    try:
        lock = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:  # being created or removed, or not ours
        with contextlib.suppress(OSError):
            folder.rmdir()
        return not folder.exists()
    except OSError:
        return False
    try:
        _lock(lock)
        if (folder / COMPLETE).exists():
            if finish is None:
                return False
            finish(folder)
        _remove(folder)
    except OSError:  # the lock is held, or the file system has no locks
        return False
    finally:
        os.close(lock)
    return not folder.exists()


def _create_locked(path: Path) -> int | None:
    """Create a file and lock it; return its descriptor, or ``None`` if another process is removing its folder."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    try:
        _lock(lock)
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError:
        pass  # A file system without locks: the folder will not be taken for a leftover there.
    if not path.exists():
        os.close(lock)
        return None
    return lock


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        raise OSError("no such locks")
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name != LOCK:  # last: a leftover without it would not be recognized
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree(folder, ignore_errors=True)
