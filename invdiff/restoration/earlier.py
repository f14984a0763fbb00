"""Records of earlier runs in an output folder: which files a run wrote, and what is in the way of the next one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invdiff.io.images import atomic_write
from invdiff.io.paths import refuse_inputs, sha256_of
from invdiff.io.portable import without_places
from invdiff.restoration.record import plain, to_json

__all__ = ["Results", "check_free", "check_place", "listed", "write_record"]

ELSEWHERE = "choose another folder with -o"
PASSING = ("timing", "output")  # what differs between equal runs: returned and printed, and not in the file


@dataclass(frozen=True)
class Results:
    """The results of a command.

    Attributes:
        command: The command, ``solve`` or ``calibrate``.
        record: Name of its record. It lists the other files with their digests, and is written last.
        names: Names of the files that may be written, without the record.
        inputs: Files that the run reads, and folders of such files.
    """

    command: str
    record: str
    names: tuple[str, ...] = ()
    inputs: tuple[Path, ...] = ()


def write_record(folder: Path, results: Results, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write the record of the files in ``folder``, and return it with their names and SHA-256 digests as ``outputs``.

    Two equal runs write the same bytes: the file has nothing of :data:`PASSING`, and paths without the folders they are in.
    """
    files = sorted(file for file in folder.iterdir() if file.name != results.record and file.is_file())
    record = {**record, "command": results.command, "outputs": {file.name: sha256_of(file) for file in files}}
    passing = {name: record.pop(name) for name in PASSING if name in record}
    record = without_places(plain(record), results.inputs)
    with atomic_write(folder / results.record) as part:
        part.write_text(to_json(record) + "\n", encoding="utf-8")
    return {**record, **passing}


def listed(folder: Path, results: Results) -> dict[str, str]:
    """Return the digests by name of the files that an earlier run of the command wrote to ``folder``, by its record there.

    Raises:
        ValueError: If there is a file with the name of the record that is no record of this command, or lists no files.
    """
    path = folder / results.record
    if not os.path.lexists(path):
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        outputs = {str(name): str(digest) for name, digest in record["outputs"].items()}
        if record["command"] != results.command or any(name in (".", "..") or Path(name).name != name for name in outputs):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        raise ValueError(
            f"{path} is in the way: it is no record of `invdiff {results.command}` that lists the files of its run (earlier "
            f"versions listed none). Move it and the results beside it away, or {ELSEWHERE}."
        ) from None
    return outputs


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Raise an error if ``folder`` is a file, or has visible files and they may not be replaced."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file, expected a folder for the results. Choose another with -o.")
    if not overwrite and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose another folder with -o, or add --overwrite to replace results.")


def check_place(folder: Path, results: Results, names: Iterable[str]) -> dict[str, str]:
    """Raise an error if files to be written or removed are not those of an earlier run of the command, or are read by this one.

    Args:
        folder: Folder for the results.
        results: The results.
        names: Names of the files to be written.

    Returns:
        What :func:`listed` returns.

    Raises:
        ValueError: If a file is in the way.
    """
    earlier = listed(folder, results)
    names = set(names)
    touched = sorted(folder / name for name in {*earlier, *names, results.record})
    refuse_inputs(filter(os.path.lexists, touched), results.inputs, "Choose another folder with -o.")
    for name, digest in earlier.items():
        path = folder / name
        if os.path.lexists(path) and not (path.is_file() and sha256_of(path) == digest):
            raise ValueError(f"{path} was changed after the run that wrote it: move it away to keep it, or {ELSEWHERE}.")
    for name in sorted(names - {*earlier, results.record}):
        if os.path.lexists(folder / name):
            raise ValueError(
                f"{folder / name} is in the way: no run of `invdiff {results.command}` recorded here wrote it. Move it away, "
                f"or {ELSEWHERE}."
            )
    return earlier
