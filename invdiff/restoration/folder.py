"""The output folder of a run, which receives either all files or none; what cannot be put there is kept elsewhere."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from invdiff.io.codecs import first_line
from invdiff.io.scratch import COMPLETE, Scratch, hidden, sweep
from invdiff.io.signals import held_back
from invdiff.restoration.earlier import Results, check_free, check_place, write_record

__all__ = ["Output", "output_folder"]

EARLIER = "earlier.json"  # the record of the earlier run while its files are being replaced
PLAN = "plan.json"  # command, record and target, for the run that finishes the work of a killed one


@contextlib.contextmanager
def output_folder(wanted: Path | None, name: str, results: Results, *, overwrite: bool) -> Iterator[Output]:
    """Claim an output folder before the work, so that what is in the way is found before sampling.

    A new folder appears with all its files at once. In an existing one the record is removed first and written last: if it
    exists, the results beside it are complete and from one run. Nothing is left behind by a run that fails or is stopped; what
    a killed run left is removed by the next one beside it.

    Args:
        wanted: Target folder. Default: ``invdiff-out/NAME``; unless ``overwrite``, with a number appended if it exists or
            another run has claimed it.
        name: Name for the default.
        results: Names of the files, and the files that the run reads.
        overwrite: Whether the files that an earlier run of the same command recorded in a folder may be replaced. No other
            file is ever replaced or removed.

    Raises:
        ValueError: If the target is a file, is not empty and ``overwrite`` is false, is claimed by another run, or if a file
            is in the way.
        OSError: If the target cannot be written.
    """
    scratch: list[Scratch] = []
    try:
        yield _claim(wanted, name, results, scratch, overwrite=overwrite)
    finally:
        for claimed in scratch:
            claimed.release()


class Output:
    """A claimed output folder.

    Attributes:
        folder: The target folder.
    """

    def __init__(self, folder: Path, scratch: Scratch, results: Results, *, overwrite: bool, numbered: bool) -> None:
        self.folder, self.scratch, self.results = folder, scratch, results
        self.overwrite, self.numbered = overwrite, numbered

    def fill(self, write: Callable[[Path, Path], dict[str, Any]]) -> dict[str, Any]:
        """Write all files and put them in place.

        Args:
            write: Called with a folder to write to and the target folder; returns the record, which it has written.

        Returns:
            The record, with the folder in which the results are as ``output``.

        Raises:
            OSError: If the files cannot be written. The message says where those are that could be.
            ValueError: If the target was filled meanwhile. The message says where the results are.
        """
        part = self.scratch.folder / "results"
        try:
            part.mkdir()
            record = write(part, self.folder)
        except Exception as error:  # Whatever a library raises, the samples are worth more than the figure that failed.
            raise OSError(_kept_elsewhere(write, part, self.folder, self.results, error)) from error
        with held_back():
            try:
                self._place(part)
            except (OSError, ValueError) as error:
                part = part if part.exists() else self.scratch.folder / COMPLETE
                kept = _move_beside(part, self.folder, self.results)
                raise type(error)(f"{first_line(error)}. The results of this run are in {kept}.") from error
        return {**record, "output": str(self.folder)}

    def _place(self, part: Path) -> None:
        if self.numbered and not _is_new(self.folder):  # filled by something else meanwhile
            self.folder = _unused(self.folder)
        if not (_is_new(self.folder) and _become(part, self.folder)):
            check_free(self.folder, overwrite=self.overwrite)
            check_place(self.folder, self.results, [file.name for file in part.iterdir()])
            _replace(part, self.folder, self.results)


def _claim(wanted: Path | None, name: str, results: Results, scratch: list[Scratch], *, overwrite: bool) -> Output:
    if wanted is None and overwrite:
        wanted = Path("invdiff-out") / name
    if wanted is None:
        for folder in _numbered(Path("invdiff-out") / name):
            with _explained(folder):
                if _is_new(folder) and _take(hidden(folder), scratch) and _is_new(folder):
                    return Output(folder, scratch[-1], results, overwrite=False, numbered=True)
    assert wanted is not None
    with _explained(wanted):
        # Beside a new folder, to become it in one rename; inside an existing one, whose parent may not be writable.
        new = _is_missing(wanted)
        free = new or not wanted.is_dir() or _take(wanted / hidden(Path("results")).name, scratch)
        free = free and (not new or _take(hidden(wanted), scratch))
    if not free:
        raise ValueError(
            f"{wanted}: another run is writing its results there ({scratch[-1].folder}). Wait for its end, or choose another "
            "folder with -o."
        )
    if not new or not _is_missing(wanted):
        check_free(wanted, overwrite=overwrite)
        check_place(wanted, results, results.names)
    return Output(wanted, scratch[-1], results, overwrite=overwrite, numbered=False)


def _take(folder: Path, scratch: list[Scratch]) -> bool:
    sweep(folder.parent, _finish)
    scratch.append(Scratch(folder))
    return scratch[-1].take(_finish)


def _is_missing(folder: Path) -> bool:
    try:
        folder.lstat()
    except FileNotFoundError:
        return True
    return False


def _is_new(folder: Path) -> bool:
    """Return whether a folder does not exist or is empty."""
    return _is_missing(folder) or (folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()))


def _numbered(folder: Path) -> Iterator[Path]:
    yield folder
    yield from (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))


def _unused(folder: Path) -> Path:
    return next(path for path in _numbered(folder) if _is_missing(path) and _is_missing(hidden(path)))


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{target}: the results cannot be written there ({reason}). Choose another folder with -o.") from error


def _become(part: Path, target: Path) -> bool:
    try:
        if not _is_missing(target):
            target.rmdir()
        part.rename(target)
    except OSError:
        if _is_missing(target):
            raise
        return False  # for example because a file viewer has created a file in the new folder
    return True


def _replace(part: Path, target: Path, results: Results) -> None:
    """Replace the files of the earlier run in a folder by those in ``part``, so that :func:`_finish` can do the rest."""
    scratch = part.parent
    where = os.path.relpath(target, scratch.parent)
    (scratch / PLAN).write_text(json.dumps([results.command, results.record, where]), encoding="utf-8")
    part.rename(scratch / COMPLETE)  # From here on a run that finds the hidden folder finishes the work.
    _move(scratch, target, results.record)


def _move(scratch: Path, target: Path, name: str) -> None:
    """Move complete results to their places and remove the others of the earlier run; can be repeated after a kill."""
    complete, earlier = scratch / COMPLETE, scratch / EARLIER
    new = {name, *_outputs(complete / name)}
    with contextlib.suppress(FileNotFoundError):
        os.replace(target / name, earlier)
    for old in _outputs(earlier) - new:  # A run with fewer samples must not leave the other samples of an earlier run.
        (target / old).unlink(missing_ok=True)
    for file in sorted(complete.iterdir(), key=lambda file: file.name == name):
        os.replace(file, target / file.name)
    complete.rmdir()


def _finish(scratch: Path) -> None:
    """Put the complete results of a run in place that was killed while it moved them."""
    complete, target, results = scratch / COMPLETE, scratch.parent, None
    try:
        command, name, where = json.loads((scratch / PLAN).read_text(encoding="utf-8"))
        target, results = target / where, Results(command, name)
        if (complete / name).exists():  # It is moved last.
            names = [file.name for file in complete.iterdir() if file.name not in _outputs(scratch / EARLIER)]
            check_place(target, results, names)
            _move(scratch, target, name)
    except (ValueError, TypeError):
        _move_beside(complete, target, results)


def _outputs(record: Path) -> set[str]:
    return set(json.loads(record.read_text(encoding="utf-8"))["outputs"]) if record.exists() else set()


def _kept_elsewhere(write: Callable[[Path, Path], Any], part: Path, target: Path, results: Results, error: Exception) -> str:
    """Write the results to the folder for temporary files, or keep what could be written; return a message that says where."""
    reason = (isinstance(error, OSError) and error.strerror) or first_line(error)
    place = None
    try:
        place = Path(tempfile.mkdtemp(prefix=f"invdiff-{target.name[:40]}-"))
        write(place, place)
        return f"{target}: the results could not be written there ({reason}). They are in {place}."
    except Exception:  # the same reason again, or another
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(OSError):
        if any(part.iterdir()):
            kept = _move_beside(part, target, results, ending="-incomplete")
            return f"{target}: the results could not be written ({reason}). Those that could are in {kept}."
    return f"{target}: the results could not be written ({reason})."


def _move_beside(part: Path, target: Path, results: Results | None, *, ending: str = "") -> Path:
    """Move a folder to an unused name beside the target, or if that cannot be written inside it, and return its path."""
    target = target if target.name not in ("", "..") else target.resolve()
    with held_back():
        for wanted in (
            target.with_name(f"{target.name}{ending}"),
            target / f"invdiff-results{ending}",
            Path(tempfile.gettempdir(), f"invdiff-{target.name}"),
        ):
            with contextlib.suppress(OSError, ValueError):
                kept = _unused(wanted)
                shutil.move(part, kept)
                if results is not None:
                    _correct(kept, results)
                return kept
    return part


def _correct(folder: Path, results: Results) -> None:
    """Write the record in ``folder`` again, with the files that are there."""
    with contextlib.suppress(OSError, ValueError):  # The files themselves are in place.
        record = json.loads((folder / results.record).read_text(encoding="utf-8"))
        write_record(folder, results, record)
