"""Text of files, made safe to print."""

from __future__ import annotations

import unicodedata

__all__ = ["printable"]


def printable(text: str, *, lines: bool = False) -> str:
    """Return ``text`` with every character that could control a terminal written as an escape, such as ``\\x1b``.

    File names, metadata and names of weights are written by others: raw, they could move the cursor, recolor or retitle the
    terminal, or reverse the direction of the line. Controls, formats (marks of direction, zero width), surrogates (bytes of
    a file name that are not UTF-8) and separators of lines are escaped; every kind of space becomes a plain one.

    Args:
        text: The text.
        lines: Whether it has several lines: line feeds are then kept. Otherwise they are escaped too, since a name with line
            feeds could pass for lines of the program.
    """
    if lines:
        return "\n".join(map(printable, text.split("\n")))
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    return character.encode("unicode_escape").decode("ascii")
