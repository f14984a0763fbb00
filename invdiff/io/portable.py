"""Paths as records hold them, so that a record can be published and read elsewhere: no folders of a machine, no user names."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any

__all__ = ["portable", "shown_as", "without_places"]

# Names of files by their paths, where a record has others than portable() would give.
NAMES: ContextVar[Mapping[str, str]] = ContextVar("NAMES", default=MappingProxyType({}))

SEPARATORS = re.escape("/" if os.sep == "/" else os.sep + "/")
BEFORE = rf"(?<![\w.~{SEPARATORS}-])"  # a path begins here, rather than in the middle of another


def portable(path: str | Path) -> str:
    """Return a path relative to the current folder with ``/``, if it is in it; otherwise the name of the file alone.

    Text that need not be a path, such as ``mine.py:MyProblem`` or ``gaussian:2``, is changed only if it is an absolute path or
    one through ``..``.
    """
    known = NAMES.get().get(str(path))
    if known is not None:
        return known
    given = Path(path)
    if not given.is_absolute() and ".." not in given.parts:
        return path if isinstance(path, str) else given.as_posix()
    for found in (_plainly(given), _plainly(_resolved(given.parent) / given.name)):
        for here in _here():
            if found.is_relative_to(here):
                return found.relative_to(here).as_posix()
    return given.name


@contextlib.contextmanager
def shown_as(names: Mapping[str, str]) -> Iterator[None]:
    """Let files have names of their own in records; ``names``: by their paths.

    A run that is repeated from its record thus writes the same record, wherever the files are now.
    """
    token = NAMES.set(names)
    try:
        yield
    finally:
        NAMES.reset(token)


def without_places(value: Any, files: Iterable[Path]) -> Any:
    """Return a value of a record with the paths of files in its texts as :func:`portable` has them.

    Args:
        value: Texts, numbers, lists and mappings.
        files: Files and folders that the texts may name, by their paths, or those of what is in them or what they are in.
    """
    files = list(files)
    known = {str(path): portable(path) for path in files}
    known = {path: shown for path, shown in known.items() if path != shown}
    exact = _replacer(sorted(known, key=len, reverse=True), lambda found: known[found], after=r"(?![\w-])")
    others = {str(_home())} | {str(folder) for path in files for folder in Path(path).parents}
    places = [*map(str, _here()), *sorted(others, key=len, reverse=True)]
    folders = [place for place in places if Path(place).is_absolute() and len(Path(place).parts) > 1]
    rest = _replacer(folders, lambda _: "", after=f"[{SEPARATORS}]")

    def clean(item: Any) -> Any:
        if isinstance(item, Mapping):
            return {name: clean(each) for name, each in item.items()}
        if isinstance(item, list | tuple):
            return [clean(each) for each in item]
        return rest(exact(item)) if isinstance(item, str) else item

    return clean(value)


def _replacer(texts: list[str], change: Callable[[str], str], *, after: str = "") -> Callable[[str], str]:
    """Return a function that replaces texts, followed by the pattern ``after``, where a path begins."""
    if not texts:
        return lambda text: text
    pattern = re.compile(f"{BEFORE}({'|'.join(map(re.escape, texts))}){after}")
    return lambda text: pattern.sub(lambda match: change(match[1]), text)


def _here() -> list[Path]:
    """Return the current folder, as it is and as the shell has it, through links; none if it was removed."""
    try:
        here = Path.cwd()
        shell = Path(os.environ.get("PWD", ""))
        return [here, *([shell] if shell.is_absolute() and shell.samefile(here) else [])]
    except OSError:
        return []


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a user without a home folder
        return Path()


def _plainly(path: Path) -> Path:
    return Path(os.path.abspath(path)) if _here() else path  # noqa: PTH100 - resolve() would follow links


def _resolved(folder: Path) -> Path:
    try:
        return folder.resolve()
    except (OSError, RuntimeError):  # a circle of links
        return folder
