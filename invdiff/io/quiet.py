"""Silence of libraries in C that print to the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["without_stderr"]


@contextmanager
def without_stderr() -> Iterator[None]:
    """Discard what is printed to the standard error stream of the process, such as libtiff's words on damaged files.

    libtiff has no other switch that Python reaches; the errors that Pillow raises say the same.
    """
    # If it was closed when Python started, descriptor 2 may be any file.
    if sys.__stderr__ is None:
        yield
        return
    sys.__stderr__.flush()
    try:
        kept = os.dup(2)
    except OSError:
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
