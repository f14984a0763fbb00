"""Restored images in folders: images as they are, result folders of ``invdiff solve``, and folders of many of these."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from invdiff.io.images import IMAGE_SUFFIXES, list_images

__all__ = ["Restored", "find_restored", "images_below", "read_record", "without_suffix"]

# What `invdiff solve` writes: a result folder has a record, and a folder of many has a manifest with a line for each.
RECORD, MANIFEST = "run.json", "manifest.jsonl"
SAMPLE = re.compile(r"sample-(\d+)")


@dataclass(frozen=True)
class Restored:
    """A restored image.

    Attributes:
        name: Its path in the folder that was searched, without suffix: that of the image, or of the result folder.
        path: The image, or the result folder.
        record: The record of the result folder, ``None`` for an image.
        source: Name of the image that was restored, as far as known: a path with suffix from the manifest.
        failed: Why there is no result, if the manifest says so.
    """

    name: str
    path: Path
    record: Mapping[str, Any] | None = None
    source: str = ""
    failed: str = ""

    @property
    def stems(self) -> set[str]:
        """The last part of the name, and that of the INPUT of the record."""
        stems = {self.name.rpartition("/")[2]}
        arguments = (self.record or {}).get("arguments")
        given = arguments.get("input") if isinstance(arguments, Mapping) else None
        return stems | ({PurePosixPath(given.replace("\\", "/")).stem} if isinstance(given, str) else set())

    def estimate(self, which: str) -> Path:
        """Return the file of the point estimate: the image itself, or ``mean``, ``best`` or ``sample-1`` of a result folder.

        Raises:
            ValueError: If the folder has none, or two.
        """
        if self.failed:
            raise ValueError(self.failed)
        if self.record is None:
            return self.path
        files = list_images(self.path)
        numbered = {int(match[1]): f"sample-{match[1]}" for file in files if (match := SAMPLE.fullmatch(file.stem))}
        wanted = numbered.get(1, which) if which == "sample-1" else which  # sample-01 of ten
        found = [file for file in files if file.stem == wanted]
        if len(found) != 1:
            there = ", ".join(file.name for file in found) or "none"
            raise ValueError(f"{self.path}: expected one image {which}, found {there}; --estimate chooses another.")
        return found[0]

    def samples(self) -> list[Path]:
        """Return the files of the samples by their number, none for an image.

        Raises:
            ValueError: If two files have one number.
        """
        if self.record is None or self.failed:
            return []
        numbered: dict[int, Path] = {}
        for file in list_images(self.path):
            if match := SAMPLE.fullmatch(file.stem):
                if int(match[1]) in numbered:
                    raise ValueError(f"{self.path}: {numbered[int(match[1])].name} and {file.name} are the same sample.")
                numbered[int(match[1])] = file
        return [numbered[number] for number in sorted(numbered)]

    @property
    def chi_square(self) -> float | None:
        """Mean squared misfit of the samples over its expected value, as recorded; ``None`` for exact data or no record."""
        residual, expected = ((self.record or {}).get(name) for name in ("residual", "residual_expected"))
        if not isinstance(residual, list) or not residual or not isinstance(expected, int | float) or not expected > 0:
            return None
        try:
            ratio = math.fsum(float(value) for value in residual) / len(residual) / expected
        except (TypeError, ValueError, OverflowError):
            return None
        return ratio if math.isfinite(ratio) else None


def find_restored(root: Path, *, without: tuple[Path, ...] = ()) -> list[Restored]:
    """Return the restored images of a folder and the folders in it, or a single image.

    A folder with a record of ``invdiff solve`` is one restored image, and nothing else in it counts. What a manifest lists as
    failed, or as done without a folder, is returned as failed. Hidden files and folders are left out.

    Args:
        root: The folder, or an image.
        without: Folders that are not searched.

    Raises:
        OSError: If a folder cannot be read.
    """
    if not root.is_dir():
        return [Restored(root.name, root)]
    listed, found = _manifest(root), []
    for folder, folders, files in _walk(root, without):
        name = folder.relative_to(root).as_posix()
        entry = listed.pop(name, None)
        record = read_record(folder) if RECORD in files else None
        if record is None and entry is None:
            found += [Restored(without_suffix(path.relative_to(root)), path) for path in _images(folder, files)]
            continue
        folders.clear()  # they hold no results of their own
        source, failed = entry or ("", "")
        found.append(Restored(root.resolve().name if name == "." else name, folder, record or {}, source, failed))
    for name, (source, failed) in listed.items():
        found.append(Restored(name, root / name, {}, source, failed or f"{root / name}: the folder of this result is missing."))
    return sorted(found, key=lambda item: (item.name, str(item.path)))


def images_below(root: Path, *, without: tuple[Path, ...] = ()) -> list[Path]:
    """Return the images in a folder and the folders in it, sorted; hidden ones are left out.

    Raises:
        OSError: If a folder cannot be read.
    """
    return sorted(path for folder, _, files in _walk(root, without) for path in _images(folder, files))


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a result folder of ``invdiff solve``, or ``None`` if it has none."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (ValueError, RecursionError, OSError):
        return None
    return record if isinstance(record, dict) and record.get("command") == "solve" else None


def without_suffix(path: Path) -> str:
    """Return a relative path as a name: without the suffix of the image, and with slashes on every system."""
    return path.with_suffix("").as_posix()


def _walk(root: Path, without: tuple[Path, ...]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield every folder with its folders, of which those that the caller removes are not searched, and its files."""

    def refuse(error: OSError) -> None:
        raise error

    excluded = {path.resolve() for path in without} - {root.resolve()}
    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if excluded:
            folders[:] = [name for name in folders if Path(folder, name).resolve() not in excluded]
        yield Path(folder), folders, files


def _images(folder: Path, files: list[str]) -> list[Path]:
    paths = (folder / name for name in files if not name.startswith("."))
    return [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]


def _manifest(root: Path) -> dict[str, tuple[str, str]]:
    """Return the name of the source and the error of every folder that the manifest of a run over a folder lists.

    Later lines on a name replace earlier ones. Lines that are no entries, such as one that was cut off, are ignored.
    """
    try:
        lines = (root / MANIFEST).read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    entries: dict[str, tuple[str, str, str]] = {}
    for line in lines:
        try:
            entry = json.loads(line)
            name, folder, state = (str(entry[key]) for key in ("name", "folder", "state"))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        error = "" if state == "done" else f"not restored: {entry.get('error') or state}"
        entries[name] = (folder, name, error)
    return {folder: (name, error) for folder, name, error in entries.values()}
