"""The values of ``--option``: options of a sampling method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import click

__all__ = ["method_options"]


def method_options(texts: Sequence[str], method: str) -> dict[str, Any]:
    """Parse ``--option`` values: options by name, as the numbers or strings that the method takes."""
    if not texts:
        return {}
    from invdiff.cli.methods import options_of
    from invdiff.methods.options import suggestion
    from invdiff.restoration.sampling import find_method

    found = find_method(method)
    given: dict[str, Any] = {}
    known = options_of(found)
    for text in texts:
        name, separator, value = text.partition("=")
        if name not in known:
            takes = f"expected one of {', '.join(known)}" if known else "it takes none"
            raise click.UsageError(f"--option {text}: {found.name} has no option {name!r}, {takes}.{suggestion(name, known)}")
        if name in given:
            raise click.UsageError(f"--option {text}: {name} is given twice.")
        parsed = _parsed(value, like=known[name]) if separator else None
        if parsed is None:
            kind = KINDS[type(known[name])]
            raise click.UsageError(f"--option {text}: expected {kind}, such as {name}={known[name]}.")
        given[name] = parsed
    return given


# The type of an option's default: what is expected of a value.
KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a word"}


def _parsed(value: str, *, like: Any) -> Any:
    """Return text as a value of the type of ``like``; ``None`` if it is none."""
    if isinstance(like, str):
        return value
    if isinstance(like, bool):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.lower())
    try:
        number = int(value) if isinstance(like, int) else float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
