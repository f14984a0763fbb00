"""How a problem declares its options: as data, from which the command line and ``invdiff.restore`` are made."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["BOUNDARY", "PATTERN_SEED", "SCALE", "Option", "OptionError"]


class OptionError(ValueError):
    """An option that is unknown, missing, or does not go with the others: wrong usage, at the command line exit code 2."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a problem, ``--clip-low`` at the command line and ``clip_low=`` in Python.

    Attributes:
        name: The Python name.
        kind: What it takes: ``"FILE"``, ``"INTEGER"``, ``"NUMBER"``, ``"TEXT"``, or the words to choose from. In Python a file
            may also be what it would hold, such as an array.
        help: One or two sentences.
        help_simulated: The same where it differs for a clean image that is degraded first.
        metavar: What the help shows in place of the kind.
        default: Its value where it is not given; ``None``: none.
        minimum: Smallest number.
        maximum: Largest number.
        above: Whether the minimum itself is too small.
        needed: ``"yes"``; ``"any"``: at least one of the options marked so; ``"either"``: exactly one of them; ``"no"``.
        simulation: Whether it serves to simulate only, because a measured INPUT tells it.
        input_tells: Whether it can be left out because INPUT may tell it.
        changes_spread: Whether a calibration made with one value does not hold for another.
    """

    name: str
    kind: Literal["FILE", "INTEGER", "NUMBER", "TEXT"] | tuple[str, ...]
    help: str
    help_simulated: str | None = None
    metavar: str | None = None
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    above: bool = False
    needed: Literal["no", "yes", "any", "either"] = "no"
    simulation: bool = False
    input_tells: bool = False
    changes_spread: bool = True

    @property
    def flag(self) -> str:
        """The option as it is written at the command line."""
        return f"--{self.name.replace('_', '-')}"

    def convert(self, value: Any) -> Any:
        """Return a value as the problem takes it.

        Raises:
            OptionError: If it is out of range or of another kind.
        """
        if value is None or self.kind == "TEXT":
            return value
        if self.kind == "FILE":
            return Path(value) if isinstance(value, str | os.PathLike) else value
        if isinstance(self.kind, tuple):
            words = {word.lower(): word for word in self.kind}
            if str(value).lower() not in words:
                raise OptionError(f"{self.flag}: {value!r} is not one of {', '.join(map(repr, self.kind))}.")
            return words[str(value).lower()]
        return self._number(value)

    def _number(self, value: Any) -> int | float:
        whole = self.kind == "INTEGER"
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or (whole and not number.is_integer()):
            raise OptionError(f"{self.flag}: expected a {'whole' if whole else 'finite'} number, got {value!r}.")
        low, high = self.minimum, self.maximum
        if (low is not None and (number < low or (self.above and number == low))) or (high is not None and number > high):
            bounds = "" if low is None else f" {'above' if self.above else 'from'} {low:g}"
            bounds += "" if high is None else f" to {high:g}"
            raise OptionError(f"{self.flag}: expected a number{bounds}, got {value!r}.")
        return int(number) if whole else number


# Options that several problems take.
BOUNDARY = Option(
    name="boundary",
    kind=("reflect", "zero", "circular"),
    default="reflect",
    help="What the blur saw beyond the border.",
)
PATTERN_SEED = Option(
    name="pattern_seed",
    kind="INTEGER",
    minimum=0,
    default=0,
    simulation=True,
    changes_spread=False,
    help="Random seed of the simulated sampling pattern.",
)
SCALE = Option(
    name="scale",
    kind="NUMBER",
    minimum=0,
    above=True,
    changes_spread=False,
    help="What white is in the units of INPUT. Default: what a simple reconstruction shows (mri, ct), or 1.",
)
