"""A case: the files of a folder, and a command that is run there."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Case", "Content", "Link", "Made"]


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    to: str


Content = bytes | Link | None  # None: a folder


@dataclass(frozen=True)
class Case:
    """A command with the files that it is run beside.

    Attributes:
        number: Number from which the case is made.
        kind: What is hostile.
        files: Content of the files by name.
        arguments: The command line after ``invdiff``.
        suspects: File names and options one of which an error must name.
    """

    number: int
    kind: str
    files: Mapping[str, Content]
    arguments: tuple[str, ...]
    suspects: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}-{self.number:03d}"

    @property
    def command(self) -> str:
        """The command as typed."""
        return f"invdiff {shlex.join(self.arguments)}"

    def write(self, folder: Path) -> None:
        """Write the files into a folder."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.mkdir(exist_ok=True)
            elif isinstance(content, Link):
                path.symlink_to(content.to)
            else:
                path.write_bytes(content)


# Files, a command line, and the file names and options one of which an error must name.
Made = tuple[dict[str, Content], list[str], list[str]]
