"""Tables of things that describe themselves: a line each, which needs no torch, and the thing itself on first use."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

__all__ = ["Registry", "load_object"]

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Things by name: those of the library, those of installed packages, and those in a file of a person's own.

    A name is looked up without importing what it stands for: iteration, ``in`` and :meth:`summary` are instant.

    Args:
        kind: What the things are, for error messages, such as ``"method"``.
        lines: For each name where the thing is, ``"module:attribute"``, and one line about it.
        adopt: Called as ``adopt(name, thing)`` with what was found there; returns what the registry hands out.

            It raises a ``TypeError`` for what is no such thing.
        group: Entry points of installed packages that belong to the table, such as ``"invdiff.methods"``.
    """

    def __init__(self, kind: str, lines: Mapping[str, tuple[str, str]], adopt: Callable[[str, Any], T], *, group: str) -> None:
        self.kind, self.lines, self.adopt, self.group = kind, dict(lines), adopt, group
        self._loaded: dict[str, T] = {}

    @cached_property
    def places(self) -> Mapping[str, str]:
        """Where each thing is, ``"module:attribute"``: the library's own first, which no package can replace."""
        installed = {point.name: point.value for point in entry_points(group=self.group)}
        return {
            **{name: place for name, (place, _) in self.lines.items()},
            **{k: v for k, v in installed.items() if k not in self.lines},
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __getitem__(self, name: str) -> T:
        if name not in self._loaded:
            self._loaded[name] = self.adopt(name, load_object(self.places[name]))
        return self._loaded[name]

    def summary(self, name: str) -> str:
        """Return the line about a thing; for those of other packages the first line of its docstring."""
        if name in self.lines:
            return self.lines[name][1]
        return (load_object(self.places[name]).__doc__ or "").strip().partition("\n")[0].rstrip(".")

    def find(self, text: str) -> T:
        """Return the thing of a name, or of a file: ``"mine.py:Name"``.

        Raises:
            ValueError: If there is none; the error says which there are.
            TypeError: If what the file holds is no such thing.
        """
        if text in self.places:
            return self[text]
        if ":" in text:
            where, _, attribute = text.rpartition(":")
            # By the whole path: what a relative one leads to depends on the folder one is in.
            place = f"{Path(where).resolve()}:{attribute}" if where.endswith(".py") else text
            if place not in self._loaded:
                self._loaded[place] = self.adopt(attribute, load_object(text))
            return self._loaded[place]
        near = difflib.get_close_matches(text, self.places, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"Unknown {self.kind} {text!r}, expected one of {', '.join(self.places)}, or one in a file, such as "
            f"mine.py:Name.{hint}"
        )


def load_object(place: str) -> Any:
    """Return what ``"module:attribute"`` or ``"path/to/file.py:attribute"`` names. The module or the file is run.

    Raises:
        ValueError: If there is no such file, module or attribute.
    """
    where, _, attribute = place.rpartition(":")
    module = _from_file(Path(where), place) if where.endswith(".py") else _from_name(where, place)
    try:
        return getattr(module, attribute)
    except AttributeError:
        near = [name for name in vars(module) if not name.startswith("_")]
        raise ValueError(f"{place}: {where} has no {attribute!r}, it has {', '.join(near)}.") from None


def _from_name(where: str, place: str) -> Any:
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is None or not where.startswith(error.name):
            raise
        raise ValueError(f"{place}: there is no module {where!r}. For a file write its ending too: {where}.py.") from None


def _from_file(path: Path, place: str) -> Any:
    if not path.is_file():
        raise ValueError(f"{place}: there is no file {path}. Expected FILE.py:NAME, such as mine.py:Name.")
    # One module a file, under a name that no other has: classes of it can then be found again by their module.
    name = f"invdiff_own_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
