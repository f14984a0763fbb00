"""The folder of a run: all of its files at once, or none."""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["RECORD", "output_folder"]

RECORD = "run.json"
IMAGES = [f"{name}.{ending}" for name in ("sample-*", "mean", "low", "high", "measurement") for ending in ("png", "tif")]
RESULTS = (*IMAGES, "std.png", "comparison.png", "measurement.npz", "posterior.npz", RECORD)


@contextlib.contextmanager
def output_folder(wanted: Path | None, name: str, *, overwrite: bool) -> Iterator[tuple[Path, Path]]:
    """Yield a temporary folder to write into, and the folder its files move to once all of them are written.

    A new folder gets its files all at once. In one that was there already ``run.json`` goes first and comes back last: where it
    stands, the results beside it are complete and of one run. A run that fails leaves nothing behind.

    Args:
        wanted: Where to write. Default: ``invdiff-out/NAME``, numbered if it is taken.
        name: Name for the default.
        overwrite: Whether earlier results may be replaced in a folder that is not empty. Other files there stay.
    """
    made: list[Path] = []
    try:
        target = _claim(wanted, name, made, overwrite=overwrite)
        new = target in made
        # Beside a new folder, to become it in one move; inside one that was there, whose parent may be closed to writing.
        part = (target.parent if new else target) / f".invdiff-{secrets.token_hex(4)}"
        with _explained(target):
            part.mkdir()
        try:
            yield part, target
            if not (new and _become(part, target)):
                _replace_results(part, target, overwrite=overwrite)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # refused where something is in it


def _claim(wanted: Path | None, name: str, made: list[Path], *, overwrite: bool) -> Path:
    """Return the folder for the results, made now: one that cannot be written fails before the work, not after it."""
    if wanted is None:
        default = Path("invdiff-out") / name
        numbered = (default.with_name(f"{default.name}-{number}") for number in itertools.count(2))
        return next(target for target in itertools.chain([default], numbered) if _make(target, made))
    if not _make(wanted, made):
        _check_free(wanted, overwrite=overwrite)
    return wanted


def _make(target: Path, made: list[Path]) -> bool:
    """Make a folder and those above it, add them to ``made``, and return whether it is new."""
    with _explained(target):
        missing = [folder for folder in (target, *target.parents) if not folder.exists()]
        try:
            target.mkdir(parents=True)
        except FileExistsError:
            return False
    made += missing
    return True


def _check_free(target: Path, *, overwrite: bool) -> None:
    if not target.is_dir():
        raise ValueError(f"{target} is a file, expected a folder for the results: choose another with -o.")
    if not overwrite and any(not path.name.startswith(".") for path in target.iterdir()):
        raise ValueError(f"{target} holds files already: choose another folder with -o, or add --overwrite to replace results.")


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{target}: the results cannot be written there ({reason}): choose another folder with -o.") from error


def _become(part: Path, target: Path) -> bool:
    try:
        target.rmdir()
        part.rename(target)
    except OSError:  # such as a file that a viewer of the new folder has put there
        target.mkdir(exist_ok=True)
        return False
    return True


def _replace_results(part: Path, target: Path, *, overwrite: bool) -> None:
    _check_free(target, overwrite=overwrite)
    files = sorted(part.iterdir(), key=lambda file: file.name == RECORD)
    (target / RECORD).unlink(missing_ok=True)
    for old in target.iterdir():  # A shorter run must not end among the samples of a longer one.
        if any(fnmatch.fnmatchcase(old.name, pattern) for pattern in RESULTS) and not (part / old.name).exists():
            old.unlink()
    for file in files:
        os.replace(file, target / file.name)
