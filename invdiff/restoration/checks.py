"""Validation of the options of a problem."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from invdiff.problems import PROBLEMS, Option, OptionError, Problem
from invdiff.restoration.limits import LIMITS
from invdiff.restoration.noise import FROM_INPUT, NoiseChoice

__all__ = ["check_limits", "check_mapping", "check_options", "complete", "find_problem"]


def check_mapping(setting: str, given: Any, *, like: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return options by name as a mapping; ``None`` is an empty one.

    Args:
        setting: Name of the setting, for the error.
        given: What was given for it.
        like: An example, for the error.

    Raises:
        OptionError: If it is no mapping from names.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise OptionError(f"{setting}: expected a mapping from names, such as {dict(like)}, got {given!r:.80}.")
    return given


def check_limits(settings: Mapping[str, Any]) -> None:
    """Raise an error for a number above :data:`invdiff.restoration.limits.LIMITS`."""
    for name, most in LIMITS.items():
        value = settings.get(name)
        if isinstance(value, int | float) and value > most:
            raise OptionError(f"--{name.replace('_', '-')}: expected at most {most:,}, got {value}.")


def find_problem(problem: str | type[Problem], taken: Collection[str] = ()) -> type[Problem]:
    """Return a problem class, given by name, by a place such as ``mine.py:MyProblem``, or as the class itself.

    Args:
        problem: Name, place or class.
        taken: Option names that are already in use.

    Raises:
        OptionError: If there is no such problem, or the name of one of its options is in use.
    """
    try:
        kind = PROBLEMS.find(problem) if isinstance(problem, str) else problem
    except (ValueError, TypeError) as error:
        raise OptionError(str(error)) from error
    if not (isinstance(kind, type) and issubclass(kind, Problem)):
        raise OptionError(f"problem: expected a name, a place such as mine.py:MyProblem, or a Problem class, got {kind!r}.")
    clash = [option.flag for option in kind.options if option.name in taken]
    if clash:
        raise OptionError(f"--problem {kind.name}: {clash[0]} is the name of another option. Rename the problem's option.")
    return kind


def complete(kind: type[Problem], given: Mapping[str, Any], *, simulated: bool, others: Collection[str] = ()) -> dict[str, Any]:
    """Return a value for every option of a problem: the given value, its default, or ``None``.

    Args:
        kind: The problem.
        given: Values by name.
        simulated: Whether a clean image is degraded first.
        others: Other valid names, to suggest for a misspelled one.

    Raises:
        OptionError: If a name is not an option of the problem, or a value is out of range.
    """
    own = {option.name: option for option in kind.options}
    for name in given:
        if name not in own:
            names = [*own, *others]
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise OptionError(f"{kind.name}: unknown option {name!r}, expected one of {', '.join(names)}.{hint}")
    return {
        name: option.default_of(simulated=simulated) if given.get(name) is None else option.convert(given[name])
        for name, option in own.items()
    }


def check_options(
    kind: type[Problem], values: Mapping[str, Any], noise: NoiseChoice, *, has_input: bool, simulated: bool
) -> None:
    """Check that required options are given and that options do not conflict.

    Args:
        kind: The problem.
        values: Values of all options of the problem.
        noise: The noise.
        has_input: Whether there is an INPUT.
        simulated: Whether a clean image is degraded first.

    Raises:
        OptionError: If an option is missing, conflicts with another, or is only for simulations; or if the noise is unsuitable.
    """
    told = kind.reads != "picture" and not simulated  # INPUT contains the values of simulation options
    given = [option for option in kind.options if _is_given(option, values[option.name])]
    for option in given:
        if told and option.simulation:
            raise OptionError(f"{option.flag} is for simulations only: a measured INPUT contains its value. Leave it out.")
    for option in given:
        if simulated and option.is_proposed(values[option.name]):
            raise OptionError(
                f"{option.flag} {option.proposed}: it is proposed from a measured INPUT, and this run degrades a clean one. "
                "Give a file."
            )
    either = [option.flag for option in given if option.needed == "either"]
    if len(either) > 1:
        raise OptionError(f"{' and '.join(either)} exclude each other: give only one of them.")
    if simulated and kind.is_blind(values):
        raise OptionError(
            f"--problem {kind.name} needs {kind.needs} to simulate a measurement. It is estimated for a measured INPUT only: "
            "simulate first, then solve the measurement.png of that run."
        )
    missing = missing_options(kind, given, told=told, has_input=has_input)
    if missing or (kind.accepts_noise == "above 0" and noise.none):
        raise OptionError(f"--problem {kind.name} needs {kind.needs or ' and '.join(missing) or '--noise above 0'}.")
    _check_noise(kind, noise, simulated=simulated, blind=kind.is_blind(values))


def missing_options(kind: type[Problem], given: Collection[Option], *, told: bool, has_input: bool) -> list[str]:
    """Return the flags of missing required options; alternatives are joined by "or" in one string."""
    needed = [option for option in kind.options if not (told and option.simulation) and not (has_input and option.input_tells)]
    missing = [option.flag for option in needed if option.needed == "yes" and option not in given]
    for group in ("any", "either"):
        members = [option for option in needed if option.needed == group]
        if members and not any(option in given for option in members):
            missing.append(" or ".join(option.flag for option in members))
    return missing


def _is_given(option: Option, value: Any) -> bool:
    if value is None:
        return False
    return not isinstance(value, str | int | float) or value != option.default


def _check_noise(kind: type[Problem], noise: NoiseChoice, *, simulated: bool, blind: bool) -> None:
    if kind.accepts_noise == "rounding" and not noise.none:
        raise OptionError(f"--problem {kind.name} does not take --noise: its only noise is rounding. Leave --noise out.")
    if noise.kind in FROM_INPUT and simulated:
        raise OptionError(f"--noise {noise.kind} is for a measured INPUT. In a simulation, give the level of the noise to add.")
    if blind and noise.kind not in FROM_INPUT and noise.level is None:
        raise OptionError(
            f"--problem {kind.name} without {kind.needs} takes Gaussian noise, of a known level such as --noise 0.01 or auto."
        )
    found = kind.finds_noise and noise.kind in FROM_INPUT
    if kind.accepts_noise == "gaussian" and noise.level is None and not found:
        raise OptionError(f"--problem {kind.name} takes Gaussian noise of a known level, such as --noise 0.01.")
