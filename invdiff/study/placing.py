"""Folders of results that appear whole: written in a hidden folder, and moved to their place in one step."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from invdiff.io.paths import sha256_of
from invdiff.io.scratch import Scratch, hidden, sweep
from invdiff.io.signals import held_back
from invdiff.restoration.earlier import Results, listed

__all__ = ["Workspace", "check_replaceable", "workspace"]

PART, OLD = "part", "old"


class Workspace:
    """The hidden folder of a process, in which it writes results.

    Attributes:
        root: Folder of all results.
        folder: The hidden folder.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder

    @contextlib.contextmanager
    def part(self) -> Iterator[Path]:
        """Yield an empty folder to write results in, which is removed at the end unless it was placed."""
        part = self.folder / PART
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def place(self, part: Path, target: Path) -> None:
        """Move a folder to its place; what is there must be replaceable (:func:`check_replaceable`), and is removed.

        Killed in between, the process leaves the complete results, or none.
        """
        old = self.folder / OLD
        with held_back():
            target.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(target):
                os.replace(target, old)
            os.replace(part, target)
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def workspace(root: Path, name: str) -> Iterator[Workspace]:
    """Yield the workspace of a process in the folder of results, and remove what killed processes have left there.

    Args:
        root: Folder of all results, which is made, and removed if it stays empty.
        name: Name of the process among those that write there.

    Raises:
        ValueError: If another process of this name is alive.
        OSError: If the folder cannot be written.
    """
    sweep(root)
    scratch = Scratch(hidden(root / name))
    try:
        if not scratch.take():
            raise ValueError(
                f"{root}: another run is writing its results there ({scratch.folder.name}). Wait for its end, or give each run "
                "a share of the pictures with --shard."
            )
        yield Workspace(root, scratch.folder)
    finally:
        scratch.release()


def check_replaceable(folder: Path, results: Results, inputs: Sequence[Path] = ()) -> None:
    """Raise an error if a folder holds anything but the unchanged results of an earlier run.

    Raises:
        ValueError: If it does.
    """
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise ValueError(f"{folder} is in the way: it is no folder of results. Move it away, or choose another folder with -o.")
    known = listed(folder, results)
    for path in sorted(folder.iterdir()):
        if path.name == results.record:
            continue
        if known.get(path.name) is None or not path.is_file() or sha256_of(path) != known[path.name]:
            what = "was changed after the run that wrote it" if path.name in known else "was not written by this program"
            raise ValueError(f"{path} {what}: move it away to keep it, or choose another folder with -o.")
    if any(path.resolve().is_relative_to(folder.resolve()) for path in inputs):
        raise ValueError(f"{folder} holds a file that this run reads. Choose another folder with -o.")
