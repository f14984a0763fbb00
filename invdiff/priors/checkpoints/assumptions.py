"""Options that a checkpoint does not determine: given by the user and checked, or assumed and reported."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

__all__ = ["Choices", "LabelNeededError", "one_of", "positive", "whole", "yes_no"]

T = TypeVar("T")
Converter = Callable[[str, Any], T]  # Takes the name of an option and its value, as text or as a Python value.


class LabelNeededError(ValueError):
    """The network is class-conditional, and no label was given."""


class Choices:
    """The options of one checkpoint.

    Args:
        given: Options by name, as Python values or as text from the command line.

    Attributes:
        assumed: Defaults used for options that were not given, by name, as ``"value (reason)"``.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given
        self.assumed: dict[str, str] = {}

    def choose(self, name: str, convert: Converter[T], default: Any, reason: str | None) -> T:
        """Return the given value or ``default``.

        A default is recorded in ``assumed`` with its ``reason``, unless that is ``None``: the file itself determines the value.
        """
        if name not in self.given and reason is not None:
            self.assumed[name] = f"{_shown(default)} ({reason})"
        return convert(name, self.given.get(name, default))

    def certain(self, name: str, convert: Converter[T], value: T, reason: str) -> T:
        """Return ``value``, the only one possible.

        Raises:
            ValueError: If another value was given.
        """
        if name in self.given and convert(name, self.given[name]) != value:
            raise _wrong(name, self.given[name], f"{_shown(value)}, as {reason}. Leave it out")
        return value

    def refuse(self, *names: str, reason: str) -> None:
        """Raise a ValueError if one of these options, which have no meaning here, was given."""
        for name in names:
            if name in self.given:
                raise _wrong(name, self.given[name], f"none, as {reason}. Leave it out")

    def label(self, classes: int | None, *, or_none: bool = False) -> int | None:
        """Return the class to sample, counted from 0, or ``None`` if the network is not class-conditional.

        Args:
            classes: Number of classes of the network. 0 or ``None``: not class-conditional.
            or_none: Whether ``"none"`` may be given and returns ``None``: the network also works without a label.

        Raises:
            ValueError: If no label is given for a class-conditional network, or a label for another network.
        """
        label = self.given.get("label")
        if or_none and label == "none":
            return None
        if not classes:
            if label is not None:
                self.refuse("label", reason="the network is not class-conditional")
            return None
        if label is None:
            example = f"label={min(207, classes - 1)}"
            raise LabelNeededError(
                f"the network is conditioned on {classes} classes and needs a label from 0 to {classes - 1}"
                f"{' (or none, if it was also trained without labels)' if or_none else ''}: "
                f"give {example} in Python, --prior-option {example} at the command line."
            )
        return whole(0, classes - 1)("label", label)


def one_of(names: Collection[str]) -> Converter[str]:
    """Convert to one of ``names``, which are in lower case."""

    def convert(name: str, value: Any) -> str:
        word = str(value).strip().lower()
        if word not in names:
            raise _wrong(name, value, f"one of {', '.join(names)}")
        return word

    return convert


def yes_no(name: str, value: Any) -> bool:
    """Convert yes and no, true and false, 1 and 0."""
    word = str(value).strip().lower()
    if word not in {"yes", "no", "true", "false", "1", "0"}:
        raise _wrong(name, value, "yes or no")
    return word in {"yes", "true", "1"}


def positive(name: str, value: Any) -> float:
    """Convert to a finite number greater than 0."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 < number < math.inf:
        raise _wrong(name, value, "a positive number")
    return number


def whole(low: int, high: int, *, multiple: int = 1) -> Converter[int]:
    """Convert to a multiple of ``multiple`` from ``low`` to ``high``, inclusive; both bounds are nonnegative."""

    def convert(name: str, value: Any) -> int:
        text = str(value).strip().removesuffix(".0")  # JSON and Python may give 64.0.
        if not re.fullmatch("[0-9]{1,18}", text) or not low <= int(text) <= high or int(text) % multiple:
            kind = "whole number" if multiple == 1 else f"multiple of {multiple}"
            raise _wrong(name, value, f"a {kind} from {low} to {high}")
        return int(text)

    return convert


def _shown(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _wrong(name: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"{name}={value!r:.80}: expected {expected}.")
