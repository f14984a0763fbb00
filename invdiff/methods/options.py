"""The options of an algorithm, read from its constructor, and the checks of their names and types."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invdiff.methods.algorithm import Algorithm

__all__ = ["check_options", "check_whole", "options_of", "suggestion"]


def options_of(algorithm: type[Algorithm]) -> dict[str, inspect.Parameter]:
    """Return the options of an algorithm by name: the keyword-only arguments of its constructor.

    If the constructor collects options by ``**`` for another algorithm, the options of that algorithm follow
    (:attr:`Algorithm.passes_options_to <invdiff.methods.algorithm.Algorithm.passes_options_to>`).
    """
    own = {p.name: p for p in inspect.signature(algorithm).parameters.values() if p.kind is p.KEYWORD_ONLY}
    inner = algorithm.passes_options_to
    return own if inner is None else own | {name: p for name, p in options_of(inner).items() if name not in own}


def check_options(method: str, algorithm: type[Algorithm], options: Mapping[str, Any]) -> None:
    """Raise a ``TypeError`` for an unknown option, or for a value that must be a whole number and is not.

    Args:
        method: Name of the method, for the message.
        algorithm: The algorithm.
        options: The options to check.
    """
    known = options_of(algorithm)
    for name in options:
        if name not in known:
            takes = f"It takes {', '.join(_described(p) for p in known.values())}." if known else "It takes none."
            raise TypeError(f"method {method!r} has no option {name!r}.{suggestion(name, known)} {takes}")
        value, usual = options[name], known[name]
        if isinstance(usual.default, int | float) and (
            isinstance(value, str) or (value is None and "None" not in str(usual.annotation))
        ):
            raise TypeError(f"method {method!r}: {name} must be a number, such as {usual.default}, got {value!r}.")
    check_whole(**{name: value for name, value in options.items() if known[name].annotation in (int, "int")})


def check_whole(**numbers: Any) -> None:
    """Raise a ``TypeError`` unless every argument is a whole number."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not hasattr(number, "__index__"):
            raise TypeError(f"{name} must be a whole number, got {number!r}.")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean ...?"`` with the known name most similar to ``name``, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _described(option: inspect.Parameter) -> str:
    return option.name if option.default is option.empty else f"{option.name}={option.default!r}"
