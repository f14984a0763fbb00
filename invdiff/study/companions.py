"""Masks, kernels and other files of a study: one for all items, or a folder with one for each, paired by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from invdiff.study.listing import Item, list_items

__all__ = ["Companions"]

FILES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".npy", ".npz"})


class Companions:
    """The files that the options of a problem name, for every item.

    In a folder, the companion of ``sub/a.jpg`` is ``sub/a`` with any suffix; if there is none, the only file named ``a`` in the
    folders of the folder.

    Args:
        files: Files and folders by option, as :meth:`Problem.files <invdiff.problems.Problem.files>` returns them.

    Attributes:
        shared: Files that all items share, by option.
        folders: Folders, by option.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.shared = {name: path for name, path in files.items() if path.is_file()}
        self.folders = {name: path for name, path in files.items() if path.is_dir()}
        self._by_name = {name: _by_name(folder) for name, folder in self.folders.items()}

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files and folders, which are no items."""
        return (*self.shared.values(), *self.folders.values())

    def of(self, item: Item) -> dict[str, Path]:
        """Return the files of an item that are in folders, by the name of the option.

        Raises:
            ValueError: If it has none in a folder, or several.
        """
        return {name: self._paired(name, item) for name in self.folders}

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
