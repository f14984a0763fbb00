"""Declarations of the options of a problem, used by the command line and ``invdiff.restore``."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["BOUNDARY", "PATTERN_SEED", "SCALE", "Option", "OptionError", "check_declared"]


KINDS = ("FILE", "INTEGER", "NUMBER", "TEXT")
NEEDED = ("no", "yes", "simulated", "any", "either")


class OptionError(ValueError):
    """An option is unknown, missing, or conflicts with others: a usage error, exit code 2 at the command line."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a problem, ``--clip-low`` at the command line and ``clip_low=`` in Python.

    Attributes:
        name: Name in Python.
        kind: Type of the value: ``"FILE"``, ``"INTEGER"``, ``"NUMBER"``, ``"TEXT"``, or a tuple of choices. In Python, a file
            may also be given by its contents, such as an array.
        help: Help text, one or two sentences.
        help_simulated: Help text if INPUT is a clean image that is degraded first. Default: ``help``.
        metavar: Placeholder for the value in the help. Default: derived from ``kind``.
        default: Default value; ``None`` if there is none.
        default_simulated: Default value if INPUT is a clean image that is degraded first. Default: ``default``.
        minimum: Smallest number allowed.
        maximum: Largest number allowed.
        above: Whether the value must be strictly greater than ``minimum``.
        below: Whether it must be strictly less than ``maximum``.
        needed: ``"yes"``: required; ``"simulated"``: required to degrade a clean image, and otherwise estimated; ``"any"``:
            at least one of the options marked so is required; ``"either"``: exactly one of them; ``"no"``: optional.
        simulation: Whether the option is for simulations only, because a measured INPUT contains its value.
        input_tells: Whether the option can be left out because INPUT may contain its value.
        changes_spread: Whether a calibration made with one value is not valid for another.
        proposed: A word that a file option accepts in place of a file: its value is then proposed from INPUT, see
            :meth:`Problem.propose <invdiff.problems.Problem.propose>`. A file of this name is given as ``./word``.

    Raises:
        TypeError: If a value declared here is of the wrong type.
        ValueError: If it is unknown, or the default is not a value of the option.
    """

    name: str
    kind: Literal["FILE", "INTEGER", "NUMBER", "TEXT"] | tuple[str, ...]
    help: str
    help_simulated: str | None = None
    metavar: str | None = None
    default: Any = None
    default_simulated: Any = None
    minimum: float | None = None
    maximum: float | None = None
    above: bool = False
    below: bool = False
    needed: Literal["no", "yes", "simulated", "any", "either"] = "no"
    simulation: bool = False
    input_tells: bool = False
    changes_spread: bool = True
    proposed: str | None = None

    def __post_init__(self) -> None:
        what = f"Option {self.name!r}"
        if not (isinstance(self.name, str) and self.name.isascii() and self.name.isidentifier()):
            raise ValueError(f"{what}: the name must be a Python name of ASCII letters, digits and underscores.")
        if isinstance(self.kind, tuple):
            known = bool(self.kind) and all(isinstance(word, str) and word for word in self.kind)
        else:
            known = isinstance(self.kind, str) and self.kind in KINDS
        if not known:
            raise ValueError(f"{what}: kind must be one of {', '.join(KINDS)}, or a tuple of words, got {self.kind!r}.")
        if self.needed not in NEEDED:
            raise ValueError(f"{what}: needed must be one of {', '.join(NEEDED)}, got {self.needed!r}.")
        for name in ("minimum", "maximum"):
            if not isinstance(getattr(self, name), int | float | None):
                raise TypeError(f"{what}: {name} must be a number or None, got {getattr(self, name)!r}.")
        if self.proposed is not None and (self.kind != "FILE" or not isinstance(self.proposed, str) or not self.proposed):
            raise ValueError(f"{what}: proposed must be a word, and is for options of kind FILE, got {self.proposed!r}.")
        if not isinstance(self.help, str):
            raise TypeError(f"{what}: help must be a string, got {self.help!r}.")
        try:
            self.convert(self.default)
        except OptionError as error:
            raise ValueError(f"{what}: the default is not a value of the option. {error}") from None

    @property
    def flag(self) -> str:
        """The option as written at the command line."""
        return f"--{self.name.replace('_', '-')}"

    def default_of(self, *, simulated: bool) -> Any:
        """Return the default value; ``simulated``: INPUT is a clean image that is degraded first."""
        return self.default_simulated if simulated and self.default_simulated is not None else self.default

    def is_proposed(self, value: Any) -> bool:
        """Return whether a value is the word :attr:`proposed`."""
        return self.proposed is not None and isinstance(value, str) and value == self.proposed

    def convert(self, value: Any) -> Any:
        """Convert a value to the type that the problem expects.

        Raises:
            OptionError: If the value is out of range or of the wrong type.
        """
        if value is None:
            return value
        if self.kind == "TEXT":
            if isinstance(value, str) and not value:
                raise OptionError(f"{self.flag}: the value is empty, expected {self.metavar or 'a text'}.")
            return value
        if self.kind == "FILE":
            if self.is_proposed(value):
                return value
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
            raise OptionError(f"{self.flag}: expected {'an integer' if whole else 'a finite number'}, got {value!r}.")
        low, high = self.minimum, self.maximum
        too_low = low is not None and (number < low or (self.above and number == low))
        if too_low or (high is not None and (number > high or (self.below and number == high))):
            bounds = "" if low is None else f" {'above' if self.above else 'from'} {low:g}"
            bounds += "" if high is None else f" {'and below' if self.below else 'to'} {high:g}"
            raise OptionError(f"{self.flag}: expected a number{bounds}, got {value!r}.")
        return int(number) if whole else number


def check_declared(name: str, options: Any) -> None:
    """Raise an error unless ``options``, as declared by the problem ``name``, is a sequence of options of different names.

    Raises:
        TypeError: If it is anything else.
        ValueError: If two options have the same name.
    """
    if not isinstance(options, tuple | list) or not all(isinstance(option, Option) for option in options):
        raise TypeError(f"{name}: options must be a tuple of Option(...), such as (Option(...),), got {options!r:.200}.")
    names = [option.name for option in options]
    twice = next((given for given in names if names.count(given) > 1), None)
    if twice is not None:
        raise ValueError(f"{name}: two options have the name {twice!r}.")


# Options shared by several problems.
BOUNDARY = Option(
    name="boundary",
    kind=("valid", "reflect", "zero", "circular"),
    default="valid",
    default_simulated="reflect",
    help="What the blur mixes in at the border. valid: the scene, which continues beyond INPUT, as in photographs.",
    help_simulated="What the blur mixes in at the border. valid: nothing, only pixels that do not need it are measured.",
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
    minimum=1e-30,
    maximum=1e30,  # what float32 holds, with room for sums over pixels
    changes_spread=False,
    help="Pixel value of white in the units of INPUT. Default: estimated from a simple reconstruction (mri, ct), or 1.",
)
