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
from invdiff.study.manifest import read_manifest

__all__ = ["Restored", "find_restored", "images_below", "read_record", "without_suffix"]

RECORD = "run.json"  # of a result folder of `invdiff solve`
SAMPLE = re.compile(r"sample-(\d+)")


@dataclass(frozen=True)
class Restored:
    """A restored image.

    Attributes:
        name: Its path in the folder that was searched, without suffix: that of the image, or of the result folder.
        path: The image, or the result folder.
        is_result: Whether it is a result folder.
        source: Name of the image that was restored, a path with suffix, if a manifest has it.
        given: Name of INPUT in the record, without folder and suffix.
        chi_square: Mean squared misfit of the samples over its expected value, as recorded; ``None`` for exact data.
        failed: Why there is no result, if the manifest says so.
    """

    name: str
    path: Path
    is_result: bool = False
    source: str = ""
    given: str = ""
    chi_square: float | None = None
    failed: str = ""

    @property
    def stems(self) -> set[str]:
        """The last part of the name, and the name of INPUT."""
        return {self.name.rpartition("/")[2], self.given} - {""}

    def estimate(self, which: str) -> Path:
        """Return the file of the point estimate: the image itself, or ``mean``, ``best`` or ``sample-1`` of a result folder.

        Raises:
            ValueError: If the folder has none, or two.
        """
        if self.failed:
            raise ValueError(self.failed)
        if not self.is_result:
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
        if not self.is_result or self.failed:
            return []
        numbered: dict[int, Path] = {}
        for file in list_images(self.path):
            if match := SAMPLE.fullmatch(file.stem):
                if int(match[1]) in numbered:
                    raise ValueError(f"{self.path}: {numbered[int(match[1])].name} and {file.name} are the same sample.")
                numbered[int(match[1])] = file
        return [numbered[number] for number in sorted(numbered)]


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
    listed, found = _listed(root), []
    for folder, folders, files in _walk(root, without):
        name = folder.relative_to(root).as_posix()
        entry = listed.pop(name, None)
        record = read_record(folder) if RECORD in files else None
        if record is None and entry is None:
            found += [Restored(without_suffix(path.relative_to(root)), path) for path in _images(folder, files)]
            continue
        folders.clear()  # they hold no results of their own
        source, failed = entry or ("", "")
        name = root.resolve().name if name == "." else name
        given, chi_square = ("", None) if record is None else (_input(record), _chi_square(record))
        found.append(Restored(name, folder, True, source, given, chi_square, failed))
    packed = " (results packed in tar files cannot be evaluated)" if listed and any(root.glob("*.tar")) else ""
    for name, (source, failed) in listed.items():
        missing = f"{root / name}: the folder of this result is missing{packed}."
        found.append(Restored(name, root / name, True, source, failed=failed or missing))
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


def _input(record: Mapping[str, Any]) -> str:
    arguments = record.get("arguments")
    given = arguments.get("input") if isinstance(arguments, Mapping) else None
    return PurePosixPath(given.replace("\\", "/")).stem if isinstance(given, str) else ""


def _chi_square(record: Mapping[str, Any]) -> float | None:
    residual, expected = record.get("residual"), record.get("residual_expected")
    if not isinstance(residual, list) or not residual or not isinstance(expected, int | float) or not expected > 0:
        return None
    try:
        ratio = math.fsum(float(value) for value in residual) / len(residual) / expected
    except (TypeError, ValueError, OverflowError):
        return None
    return ratio if math.isfinite(ratio) else None


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


def _listed(root: Path) -> dict[str, tuple[str, str]]:
    """Return the name of the picture and the error of every folder that the manifest of a run over a folder lists."""
    listed = {}
    for name, entry in read_manifest(root).items():
        folder, state = str(entry.get("folder") or without_suffix(Path(name))), entry.get("state")
        listed[folder] = (name, "" if state == "done" else f"not restored: {entry.get('error') or state}")
    return listed
