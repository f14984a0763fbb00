"""What is in the way of a file to be written, and where it goes if it cannot be."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["attempt", "check_output", "refuse_inputs", "same_file", "sha256_of"]


def same_file(one: Path, two: Path) -> bool:
    """Return whether two paths are the same file, through links, and for files that do not exist yet by name and folder."""
    try:
        return one.samefile(two)
    except (OSError, ValueError):
        pass
    if one.exists() or two.exists():
        return False
    names = [path.name.casefold() if sys.platform in ("darwin", "win32") else path.name for path in (one, two)]
    return names[0] == names[1] and one.parent.resolve() == two.parent.resolve()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 digest of the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path], what_to_do: str) -> None:
    """Raise an error, before the work, if a file that is read would be replaced or removed.

    Args:
        outputs: Files to be written or removed.
        inputs: Files that are read; folders do not count.
        what_to_do: The end of the message, such as ``"Choose another folder with -o."``.

    Raises:
        ValueError: If one of them is.
    """
    read = [path for path in inputs if path.is_file()]
    for output in outputs:
        for path in read:
            if same_file(output, path):
                which = "" if str(path) == str(output) else f" (it is {path})"
                raise ValueError(f"{output} is read by this run{which} and would be replaced or removed. {what_to_do}")


def check_output(
    path: Path,
    *,
    option: str,
    inputs: Iterable[Path] = (),
    others: Iterable[Path] = (),
    ours: Callable[[Path], bool],
    what: str,
) -> None:
    """Raise an error, before the work, if a file cannot be written, or would replace one that this command did not write.

    Args:
        path: The file.
        option: The option that names it, for the message.
        inputs: Files that are read.
        others: Other files that are written.
        ours: Whether an existing file is what the command writes.
        what: What the command writes, such as ``"a card of invdiff train"``.

    Raises:
        ValueError: If a file is in the way.
        OSError: If the folder does not exist or cannot be written.
    """
    refuse_inputs([path], inputs, f"Choose another name with {option}.")
    for other in others:
        if same_file(path, other):
            raise ValueError(f"{path} and {other} are one file, expected two. Choose another name with {option}.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected a file. Choose another name with {option}.")
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path} is a link to a file that does not exist. Remove it, or choose another name with {option}.")
    if path.exists() and not ours(path):
        raise ValueError(f"{path} exists and is not {what}. Move it away, or choose another name with {option}.")
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: the folder {path.parent} cannot be written. Choose another with {option}.")


def attempt(write: Callable[[Path], None], path: Path) -> str | None:
    """Write a file, or one of its name in the folder for temporary files; return ``None``, or a message that says where."""
    try:
        write(path)
    except OSError as error:
        failed = f"{path}: could not be written ({error.strerror})." if error.strerror else str(error)
        try:
            place = Path(tempfile.mkdtemp(prefix="invdiff-"), path.name)
            write(place)
        except OSError:
            return failed
        return f"{failed} It is in {place}."
    return None
