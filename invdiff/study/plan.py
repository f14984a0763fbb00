"""What a study is to make of each item, and whether it is there already."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invdiff.restoration.pictures import COMMAND, RECORD
from invdiff.study.companions import Companions
from invdiff.study.identity import file_facts, item_seed, result_key
from invdiff.study.listing import Item
from invdiff.study.manifest import Entry

__all__ = ["Plan", "Task"]


@dataclass(frozen=True)
class Task:
    """One item to be restored.

    Attributes:
        item: The item.
        settings: Its settings: those of the study with its own files and seed.
        files: Facts of the files that are read, by name.
        key: Digest of all that determines the result.
        target: Folder of the results.
    """

    item: Item
    settings: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    key: str
    target: Path

    def entry(self, state: str, **facts: Any) -> Entry:
        """Return the line of the manifest."""
        files = {name: dict(found) for name, found in self.files.items()}
        return {
            "name": self.item.name,
            "folder": self.item.folder,
            "state": state,
            "key": self.key,
            "input": files.pop("input"),
            "files": files,
            **facts,
        }


@dataclass(frozen=True)
class Plan:
    """The tasks of a study.

    Attributes:
        out: Folder of all results.
        settings: Settings of all items.
        writing: Settings of the files of results.
        companions: Masks and other files.
        prior: Digest of the prior.
        further: Facts of files that all items share beyond those of the problem, by name, such as a calibration.
    """

    out: Path
    settings: Mapping[str, Any]
    writing: Mapping[str, Any]
    companions: Companions
    prior: str
    further: Mapping[str, Mapping[str, Any]]

    def task(self, item: Item, known: Entry | None) -> Task:
        """Return the task of an item, given its entry in the manifest, whose digests count for unchanged files.

        Raises:
            ValueError: If it has no mask or other file in a folder of these.
            OSError: If a file cannot be read.
        """
        own, before = self.companions.of(item), _facts(known)
        paths = {"input": item.path, **own}
        files = {name: file_facts(path, before.get(name)) for name, path in paths.items()} | dict(self.further)
        settings = {**self.settings, **own, "seed": item_seed(self.settings["seed"], item.name)}
        key = result_key({**settings, **self.writing}, files, seed=settings["seed"], prior=self.prior)
        return Task(item, settings, files, key, self.out / item.folder)

    def is_done(self, task: Task, known: Entry | None) -> bool:
        """Return whether the results of a task are there: by the manifest, or by their record if it was not written yet."""
        record = task.target / RECORD
        if known is not None and known.get("state") == "done":
            return known.get("key") == task.key and os.path.lexists(record)
        return recorded_key(record) == task.key


def recorded_key(record: Path) -> str | None:
    """Return the key in the record of a result, ``None`` if there is none."""
    try:
        found = json.loads(record.read_bytes())
        return str(found["key"]) if found["command"] == COMMAND else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _facts(known: Entry | None) -> dict[str, Mapping[str, Any]]:
    if known is None:
        return {}
    found, files = known.get("input"), known.get("files")
    facts = {"input": found, **(files if isinstance(files, Mapping) else {})}
    return {name: value for name, value in facts.items() if isinstance(value, Mapping)}
