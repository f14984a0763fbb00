"""Messages of errors for users, in one line."""

from __future__ import annotations

import errno

__all__ = ["one_line"]


def one_line(error: Exception) -> str:
    """Return the message of an error in one line, with its type if it was not written for users."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return (
            f"a file or the standard output cannot be written: {error.strerror}"
            if error.errno == errno.ENOSPC
            else error.strerror
        )
    text = " ".join(str(error).split())
    # Messages of invdiff and the file system are written for users; for other errors, name the type.
    if text and (isinstance(error, (ValueError, TypeError, OSError)) or type(error).__module__.startswith("invdiff")):
        return text
    return f"{type(error).__name__}: {text} (INVDIFF_DEBUG=1 shows the traceback)"
