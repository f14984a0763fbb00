"""How a problem is sampled: what was asked for, over what solves it best under the prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from invdiff.methods import METHODS, Method
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.problems import OptionError, Problem

__all__ = ["find_method", "sampler_arguments"]


def find_method(method: str | Method) -> Method:
    """Return the method of a name, or of a file such as ``mymethod.py:MyGuidance``, or itself; of ``auto`` that is ``mmps``.

    Raises:
        OptionError: If there is none.
    """
    if not isinstance(method, str):
        return method
    table: Any = METHODS
    find = getattr(table, "find", table.__getitem__)
    try:
        found: Method = find("mmps" if method == "auto" else method)
    except KeyError:
        raise OptionError(f"Unknown method {method!r}, expected one of auto, {', '.join(METHODS)}.") from None
    except (ValueError, TypeError) as error:
        raise OptionError(str(error)) from error
    return found


def sampler_arguments(
    problem: Problem, score: ScoreModel, op: Operator, settings: Mapping[str, Any], option: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what :class:`~invdiff.PosteriorSampler` is built with.

    Args:
        problem: What is solved.
        score: The prior.
        op: The measurement.
        settings: ``method``, ``steps``, ``rule``, ``preset``, and perhaps ``quality``; ``None`` or ``"auto"``: not given.
        option: Options of the method.

    Raises:
        OptionError: If there is no such method, or ``quality`` is given beside what it decides.
    """
    quality = settings.get("quality")
    others = [name for name in ("method", "steps", "rule", "preset") if settings[name] not in (None, "auto")]
    others += ["option"] if option else []
    if quality is not None and others:
        raise OptionError(f"--quality decides the method and its settings: leave out --{others[0]}, or --quality.")
    # Options without a method are those of mmps, which takes every measurement.
    recommended = problem.recommended if option else problem.settings(score, op, quality=quality or "balanced")
    wanted = settings["method"]
    if wanted == "auto":
        arguments = dict(recommended)
    else:
        named = find_method(wanted)
        arguments = {"method": wanted if wanted in METHODS else named}
        if named.ratio_max is None and not named.starts_high and settings["preset"] is None:
            # Where to start is a matter of the pictures: beyond, the network's gradient is mostly error.
            arguments |= {name: problem.recommended[name] for name in ("ratio_max",) if name in problem.recommended}
    arguments |= {name: settings[name] for name in ("steps", "rule", "preset") if settings[name] is not None}
    return arguments | dict(option)
