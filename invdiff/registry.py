"""Tables of named objects, such as methods and problems: one line of text each, and the object loaded on first use."""

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

__all__ = ["Registry", "load_object", "raised"]

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Objects by name: those of the library, those of installed packages, and those in files of the user.

    Iteration, ``in`` and, for objects of the library, :meth:`summary` import nothing.

    Args:
        kind: Kind of the objects, for error messages, such as ``"method"``.
        lines: Place ``"module:attribute"`` and one-line summary of each object, by name.
        adopt: Called as ``adopt(name, thing)`` with the object at a place; returns the object of the registry. Raises a
            ``TypeError`` if the object is not of the expected kind.
        group: Entry point group whose objects belong to the table, such as ``"invdiff.methods"``.
    """

    def __init__(self, kind: str, lines: Mapping[str, tuple[str, str]], adopt: Callable[[str, Any], T], *, group: str) -> None:
        self.kind, self.lines, self.adopt, self.group = kind, dict(lines), adopt, group
        self._loaded: dict[str, T] = {}

    @cached_property
    def places(self) -> Mapping[str, str]:
        """Place of each object, ``"module:attribute"``. Names of the library come first, and packages cannot replace them."""
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
            self._loaded[name] = self.adopt(name, self._load(name))
        return self._loaded[name]

    def summary(self, name: str) -> str:
        """Return the one-line summary of an object; for other packages, the first line of its docstring."""
        if name in self.lines:
            return self.lines[name][1]
        return (self._load(name).__doc__ or "").strip().partition("\n")[0].rstrip(".")

    def broken(self) -> dict[str, str]:
        """Return the names from installed packages that cannot be loaded, with the reasons."""
        reasons = {}
        for name in self.places.keys() - self.lines.keys():
            try:
                self[name]
            except Exception as error:  # whatever somebody else's package raises
                reasons[name] = " ".join(str(error).split())
        return reasons

    def _load(self, name: str) -> Any:
        if name in self.lines:
            return load_object(self.places[name])
        try:
            return load_object(self.places[name])
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{self.kind} {name!r} comes from the entry point {self.places[name]!r} of an installed package (group "
                f"{self.group}), which cannot be loaded: {reason} Update or uninstall that package."
            ) from error

    def find(self, text: str) -> T:
        """Return the object with a name, or at a place in a file such as ``"mine.py:Name"``.

        Raises:
            ValueError: If there is none; the error lists the valid names.
            TypeError: If the object in the file is not of the expected kind.
        """
        if text in self.places:
            return self[text]
        if ":" in text:
            where, _, attribute = text.rpartition(":")
            # By absolute path: the meaning of a relative path depends on the working directory.
            place = f"{Path(where).resolve()}:{attribute}" if where.endswith(".py") else text
            if place not in self._loaded:
                self._loaded[place] = self.adopt(attribute, load_object(text))
            return self._loaded[place]
        near = difflib.get_close_matches(text, self.places, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else " Add :NAME after the file." if text.endswith(".py") else ""
        raise ValueError(
            f"Unknown {self.kind} {text!r}, expected one of {', '.join(self.places)}, or a place in a file such as "
            f"mine.py:Name.{hint}"
        )


def load_object(place: str) -> Any:
    """Return the object at ``"module:attribute"`` or ``"path/to/file.py:attribute"``. The module or the file is executed.

    Raises:
        ValueError: If there is no such file, module or attribute.
    """
    where, colon, attribute = place.rpartition(":")
    if not colon or not where or not attribute:
        raise ValueError(
            f"{place}: expected FILE.py:NAME, such as mine.py:Name, got no {'file' if colon and attribute else 'name'}."
        )
    module = _from_file(Path(where), place) if where.endswith(".py") else _from_name(where, place)
    try:
        return getattr(module, attribute)
    except AttributeError:
        near = [name for name in vars(module) if not name.startswith("_")]
        similar = difflib.get_close_matches(attribute, near, n=1)
        hint = f" Did you mean {similar[0]!r}?" if similar else ""
        raise ValueError(f"{place}: {where} has no {attribute!r}, only {', '.join(near) or 'nothing'}.{hint}") from None


def raised(error: BaseException) -> str:
    """Return the type and the message of an exception that somebody's code raised, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _from_name(where: str, place: str) -> Any:
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is None or not where.startswith(error.name):
            raise
        raise ValueError(f"{place}: there is no module {where!r}. Expected FILE.py:NAME for a file.") from None


def _from_file(path: Path, place: str) -> Any:
    if not path.is_file():
        raise ValueError(f"{place}: there is no file {path}. Expected FILE.py:NAME, such as mine.py:Name.")
    # One module per file, with a unique name, so that its classes can be found again through their module.
    name = f"invdiff_own_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.resolve().parent))  # As for ``python FILE.py``: it may import its neighbors.
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise ValueError(f"{place}: {path} cannot be imported, {raised(error)}") from error
        finally:
            sys.path.remove(str(path.resolve().parent))
    return sys.modules[name]
