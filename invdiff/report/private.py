"""Text without the folders of this machine, which name people and places: a report is sent to others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

__all__ = ["private"]

# A path from the root, or from a folder above: what comes before its last part.
FOLDERS = re.compile(r"(?<![\w.\\/:])(?:~?/|(?:\.\.[\\/])+|[A-Za-z]:[\\/]|\\\\)(?:[^\s:;,'\"()<>|\\/]+[\\/])*(?=[^\s\\/])")


def private(value: Any) -> Any:
    """Return a part of a record with file names in place of paths from the root or from a folder above."""
    if isinstance(value, Mapping):
        return {str(key): private(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [private(part) for part in value]
    if not isinstance(value, str):
        return value
    for place in (Path.cwd(), Path.home()):
        if len(place.parts) > 1:
            value = value.replace(f"{place}/", "").replace(f"{place}\\", "")
    if value.startswith(("/", "../")) or PureWindowsPath(value).drive:
        head, colon, rest = value.partition(": ")  # of an error, which begins with the path
        return f"{PureWindowsPath(head).name}{colon}{private(rest)}"
    return FOLDERS.sub("", value)
