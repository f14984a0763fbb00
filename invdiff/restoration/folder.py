"""The output folder of a run, which receives either all files or none."""

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
    """Yield a temporary folder to write into, and the target folder to which its files move once all of them are written.

    A new target folder appears with all its files at once. In an existing one ``run.json`` is removed first and written last:
    if it exists, the results beside it are complete and from one run. A run that fails leaves no files behind.

    Args:
        wanted: Target folder. Default: ``invdiff-out/NAME``, with a number appended if it exists.
        name: Name for the default.
        overwrite: Whether earlier results in a folder that is not empty may be replaced. Other files there are kept.

    Raises:
        ValueError: If the target is a file, or is not empty and ``overwrite`` is false.
        OSError: If the target cannot be written.
    """
    made: list[Path] = []
    try:
        target = _claim(wanted, name, made, overwrite=overwrite)
        new = target in made
        # Beside a new folder, to replace it in one rename; inside an existing one, whose parent may not be writable.
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
                folder.rmdir()  # fails if the folder is not empty


def _claim(wanted: Path | None, name: str, made: list[Path], *, overwrite: bool) -> Path:
    """Return the target folder, created now so that a folder that cannot be written fails before sampling."""
    if wanted is None:
        default = Path("invdiff-out") / name
        numbered = (default.with_name(f"{default.name}-{number}") for number in itertools.count(2))
        return next(target for target in itertools.chain([default], numbered) if _make(target, made))
    if not _make(wanted, made):
        _check_free(wanted, overwrite=overwrite)
    return wanted


def _make(target: Path, made: list[Path]) -> bool:
    """Create a folder and its parents, append the new ones to ``made``, and return whether the folder is new."""
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
        raise ValueError(f"{target} is a file, expected a folder for the results. Choose another with -o.")
    if not overwrite and any(not path.name.startswith(".") for path in target.iterdir()):
        raise ValueError(f"{target} is not empty: choose another folder with -o, or add --overwrite to replace results.")


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{target}: the results cannot be written there ({reason}). Choose another folder with -o.") from error


def _become(part: Path, target: Path) -> bool:
    try:
        target.rmdir()
        part.rename(target)
    except OSError:  # for example because a file viewer has created a file in the new folder
        target.mkdir(exist_ok=True)
        return False
    return True


def _replace_results(part: Path, target: Path, *, overwrite: bool) -> None:
    _check_free(target, overwrite=overwrite)
    files = sorted(part.iterdir(), key=lambda file: file.name == RECORD)
    (target / RECORD).unlink(missing_ok=True)
    for old in target.iterdir():  # A run with fewer samples must not leave the other samples of an earlier run.
        if any(fnmatch.fnmatchcase(old.name, pattern) for pattern in RESULTS) and not (part / old.name).exists():
            old.unlink()
    for file in files:
        os.replace(file, target / file.name)
