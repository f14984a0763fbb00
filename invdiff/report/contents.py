"""What a folder of results holds: one result of ``invdiff solve``, or a study of many."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from invdiff.io.paths import sha256_of
from invdiff.study.manifest import read_manifest

__all__ = ["COMMAND", "RECORD", "Contents", "Item", "find", "read_record"]

COMMAND, RECORD = "solve", "run.json"
LARGEST = 64 * 2**20  # bytes of a record
SAMPLE = re.compile(r"sample-(\d+)\.[a-z]+")
ROLES = ("best", "mean", "low", "high", "std", "mask", "kernel", "measurement")


@dataclass(frozen=True)
class Item:
    """One result folder.

    Attributes:
        name: Name of INPUT, or of the folder.
        folder: The folder.
        record: Contents of its ``run.json``.
        input_name: Path of INPUT below the folder of all INPUTs, in a study.
    """

    name: str
    folder: Path
    record: Mapping[str, Any]
    input_name: str | None = None

    @cached_property
    def outputs(self) -> Mapping[str, str]:
        """Digests by name of the files that the run wrote and that are there."""
        return {name: digest for name, digest in self.record["outputs"].items() if (self.folder / name).is_file()}

    @cached_property
    def samples(self) -> Mapping[int, Path]:
        """Files of the samples by their numbers, counted from 1."""
        found = {name: SAMPLE.fullmatch(name) for name in self.outputs}
        return dict(sorted((int(match[1]), self.folder / name) for name, match in found.items() if match is not None))

    @cached_property
    def pictures(self) -> Mapping[str, Path]:
        """The other pictures by role: best, mean, low, high, std, mask, kernel and measurement, as far as they are there."""
        stems = {Path(name).stem: self.folder / name for name in self.outputs if Path(name).suffix not in (".npz", ".npy")}
        return {role: stems[role] for role in ROLES if role in stems}

    @property
    def best(self) -> int | None:
        """Number of the sample that is closest to all others, if it is there."""
        match = SAMPLE.fullmatch(str(self.record.get("best")))
        return int(match[1]) if match is not None and int(match[1]) in self.samples else None

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Arguments of the run."""
        arguments: Mapping[str, Any] = self.record["arguments"]
        return arguments

    @property
    def simulated(self) -> bool:
        """Whether INPUT is the truth, and the measurement was made from it."""
        return bool(self.arguments.get("simulate")) or self.arguments.get("input") is None

    def changed(self) -> list[str]:
        """Return the names of pictures that are not as the run wrote them."""
        shown = (*self.samples.values(), *self.pictures.values())
        return sorted(path.name for path in shown if sha256_of(path) != self.outputs[path.name])


@dataclass(frozen=True)
class Contents:
    """The items in a folder.

    Attributes:
        items: Results, sorted by name; in a study by the entries of its manifest.
        failed: What went wrong, by name, with the INPUTs of a study that have no result.
        damaged: What is wrong, by name, with results that cannot be read.
        study: Whether the folder is that of several results.
    """

    items: tuple[Item, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    damaged: Mapping[str, str] = field(default_factory=dict)
    study: bool = False


def find(folder: Path) -> Contents:
    """Return the results in a folder: those that its manifest lists, or all below it.

    Raises:
        ValueError: If there are none, or the only one is damaged.
        OSError: If the folder cannot be read.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"{folder} {what}: expected a folder of results of `invdiff solve`.")
    if (folder / RECORD).is_file():
        record = read_record(folder / RECORD)
        return Contents((Item(_named(record, folder.resolve().name), folder, record),))
    entries = read_manifest(folder)
    contents = _of_manifest(folder, entries) if entries else _below(folder)
    if contents.items:
        return contents
    said = [f"{name}: {message}" for name, message in {**contents.damaged, **contents.failed}.items()]
    if said:
        raise ValueError(f"{folder}: none of its {len(said)} results can be shown. {said[0]}")
    raise ValueError(
        f"{folder} holds no results: expected {RECORD} of `invdiff solve`, or a folder of such folders. Give the folder that "
        "was its -o."
    )


def _of_manifest(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> Contents:
    items, failed, damaged = list[Item](), dict[str, str](), dict[str, str]()
    packed = any(folder.glob("*.tar"))
    for name, entry in entries.items():
        if entry.get("state") == "failed":
            failed[name] = " ".join(str(entry.get("error") or "no reason is recorded").split())
            continue
        try:
            place = folder / _inside(entry.get("folder"), name)
            if packed and not (place / RECORD).exists():
                raise ValueError(f"{place}: the results are packed in a tar file, which a report does not read.")
            items.append(Item(name, place, read_record(place / RECORD), input_name=name))
        except (ValueError, OSError) as error:
            damaged[name] = _said(error)
    return Contents(tuple(items), failed, damaged, study=True)


def _inside(place: Any, name: str) -> str:
    """Return the path of a result below its study."""
    path = PurePosixPath(place) if isinstance(place, str) and place else None
    if path is None or path.is_absolute() or ".." in path.parts or PureWindowsPath(str(place)).anchor:
        raise ValueError(f"the manifest gives {place!r} as its folder, expected a path below that of the study ({name}).")
    return str(path)


def _below(folder: Path) -> Contents:
    items, damaged = list[Item](), dict[str, str]()
    for path in sorted(folder.rglob(RECORD)):
        place = path.parent.relative_to(folder)
        if any(part.startswith(".") for part in place.parts):
            continue
        try:
            items.append(Item(place.as_posix(), path.parent, read_record(path)))
        except (ValueError, OSError) as error:
            damaged[place.as_posix()] = _said(error)
    return Contents(tuple(items), {}, damaged, study=True)


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def _named(record: Mapping[str, Any], otherwise: str) -> str:
    """Return the name of INPUT without its folders, or another name."""
    given = record["arguments"].get("input")
    return PureWindowsPath(given).name or otherwise if isinstance(given, str) else otherwise


def read_record(path: Path) -> Mapping[str, Any]:
    """Return the record of a run, in which everything has the type that it should have.

    Raises:
        ValueError: If the file is no record of ``invdiff solve``.
        OSError: If it cannot be read.
    """
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path}: expected the record of a run, got a file of more than {LARGEST >> 20} MiB.")
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is damaged: it is not JSON. Run `invdiff solve` again.") from None
    command = record.get("command") if isinstance(record, dict) else None
    if isinstance(command, str) and command != COMMAND:
        raise ValueError(f"{path} is a record of `invdiff {command}`, expected one of `invdiff {COMMAND}`.")
    outputs = record.get("outputs") if command is not None else None
    if not isinstance(record, dict) or not isinstance(outputs, dict) or not isinstance(record.get("arguments"), dict):
        raise ValueError(f"{path} is no record of `invdiff {COMMAND}` that lists the files of its run.")
    for name, digest in outputs.items():
        if name in ("", ".", "..") or PureWindowsPath(name).name != name or not isinstance(digest, str):
            raise ValueError(f"{path} is damaged: it lists the file {name!r}, expected names of files beside it.")
    for name, kind in {"notes": list, "residual": list, "options": dict, "prior": dict, "files": dict}.items():
        if not isinstance(record.setdefault(name, kind()), kind):
            raise ValueError(f"{path} is damaged: {name} is a {type(record[name]).__name__}, expected a {kind.__name__}.")
    return record
