"""Pickled objects whose classes are never imported, and the weights of those that are networks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

__all__ = ["DEEPEST", "Record", "state_dict"]

DEEPEST = 100  # largest nesting depth of containers; published checkpoints have about 25
MOST_MODULES = 100_000  # largest number of modules of one network, and of its weights


@dataclass(eq=False, repr=False)
class Record:
    """The content of a pickled object whose class is unknown and never imported.

    Attributes:
        name: Name of the class, with its module if the file gives it.
        state: Attributes of the object, as dictionary entries. They do not become attributes of the record.
    """

    name: str
    state: dict[Any, Any] = field(default_factory=dict)


def state_dict(record: Record) -> dict[str, Tensor]:
    """Return the ``state_dict()`` of a recorded module: its parameters and persistent buffers.

    Raises:
        ValueError: If a module contains itself, or there are too many modules or weights.
    """
    found: dict[str, Tensor] = {}
    todo, seen = [("", record)], 0
    while todo:
        prefix, module = todo.pop()
        seen += 1
        if max(seen, len(found), len(todo)) > MOST_MODULES or prefix.count(".") > DEEPEST:
            raise ValueError(f"{record.name} contains itself, or too many modules. Expected a network.")
        transient = module.state.get("_non_persistent_buffers_set")
        for name, value in (*_entries(module, "_parameters"), *_entries(module, "_buffers")):
            if isinstance(value, Tensor) and not (isinstance(transient, set) and name in transient):
                found[f"{prefix}{name}"] = value
        modules = itertools.islice(_entries(module, "_modules"), MOST_MODULES + 1)
        todo += [(f"{prefix}{name}.", child) for name, child in modules if isinstance(child, Record)]
    return found


def _entries(module: Record, kind: str) -> Iterator[tuple[str, Any]]:
    entries = module.state.get(kind)
    if isinstance(entries, dict):
        yield from ((name, value) for name, value in entries.items() if isinstance(name, str))
