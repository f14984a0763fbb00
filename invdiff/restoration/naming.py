"""Errors about an input name its file."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

from invdiff.io.source import Source
from invdiff.problems import OptionError

__all__ = ["naming_input"]

Reader = TypeVar("Reader", bound=Callable[..., Any])


def naming_input(reader: Reader) -> Reader:
    """Put the path of INPUT, the first argument, before a ``ValueError`` that begins neither with it, nor an option or file.

    Problems and operators do not know where a picture comes from: "expected a grayscale one" becomes "photo.png: expected a
    grayscale one".
    """

    @functools.wraps(reader)
    def named(source: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return reader(source, *arguments, **options)
        except OptionError:
            raise
        except ValueError as error:
            text, path = str(error), Source(source).path
            beginning, _, _ = text.partition(":")
            files = [str(value) for value in options.values() if isinstance(value, str | os.PathLike)]
            # Errors about a file begin with its name; a kernel may be an array in one: kernels.npz:levin1.
            if path is None or text.startswith("--") or str(path) in text or any(file.startswith(beginning) for file in files):
                raise
            raise ValueError(f"{path}: {text}") from error

    return cast(Reader, named)
