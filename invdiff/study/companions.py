"""Masks, kernels and other files of a study: one for all items, or a folder with one for each, paired by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from invdiff.problems import Option
from invdiff.study.listing import Item, list_items

__all__ = ["Companions"]

FILES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".npy", ".npz"})


class Companions:
    """The files that the options of a problem name, for every item.

    In a folder, the companion of ``sub/a.jpg`` is ``sub/a`` with any suffix; if there is none, the only file named ``a`` in the
    folders of the folder.

    Args:
        options: The options of the problem.
        values: Their values.
    """

    def __init__(self, options: Sequence[Option], values: Mapping[str, Any]) -> None:
        named = {option.name: values[option.name] for option in options if option.kind == "FILE"}
        self.shared = {name: Path(value) for name, value in named.items() if isinstance(value, Path) and value.is_file()}
        self.folders = {name: Path(value) for name, value in named.items() if isinstance(value, Path) and value.is_dir()}
        self._by_name = {name: _by_name(folder) for name, folder in self.folders.items()}

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files and folders, which are no items."""
        return (*self.shared.values(), *self.folders.values())

    def of(self, item: Item) -> dict[str, Path]:
        """Return the files of an item by the name of the option.

        Raises:
            ValueError: If it has none in a folder, or several.
        """
        return {**self.shared, **{name: self._paired(name, item) for name in self.folders}}

    def _paired(self, option: str, item: Item) -> Path:
        by_name = self._by_name[option]
        stem = os.path.splitext(item.name)[0]  # noqa: PTH122 - names with slashes
        found = by_name.get(stem) or by_name.get(f"*/{os.path.basename(stem)}") or []  # noqa: PTH119
        if len(found) == 1:
            return found[0]
        folder, flag = self.folders[option], option.replace("_", "-")
        if found:
            raise ValueError(f"--{flag}: {folder} holds several files of this name: {', '.join(map(str, sorted(found)[:3]))}.")
        raise ValueError(f"--{flag}: {folder} holds no file of this name, {stem} with any suffix.")


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """Return the files of a folder by their relative name without suffix, and by ``*/`` and their name alone."""
    found: dict[str, list[Path]] = {}
    for item in list_items(folder, FILES).items:
        stem = os.path.splitext(item.name)[0]  # noqa: PTH122
        found.setdefault(stem, []).append(item.path)
        found.setdefault(f"*/{os.path.basename(stem)}", []).append(item.path)  # noqa: PTH119
    return found
