"""Sampler arguments of a restoration: the settings of the user, over those recommended for the problem and the prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from invdiff.methods import METHODS, Method
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.problems import OptionError, Problem

__all__ = ["find_method", "sampler_arguments"]


def find_method(method: Any) -> Method:
    """Return a method given by name, by a place such as ``mymethod.py:MyGuidance``, or as itself; ``auto`` is ``mmps`` here.

    Raises:
        OptionError: If there is no such method.
    """
    try:
        if isinstance(method, str):
            return METHODS.find("mmps" if method == "auto" else method)
        return METHODS.adopt(getattr(method, "__name__", ""), method)
    except (ValueError, TypeError) as error:
        raise OptionError(str(error)) from error


def sampler_arguments(
    problem: Problem, score: ScoreModel, op: Operator, settings: Mapping[str, Any], option: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of :class:`~invdiff.PosteriorSampler`.

    Args:
        problem: The problem.
        score: The prior.
        op: The operator.
        settings: ``method``, ``steps``, ``rule``, ``preset``, and optionally ``quality``; ``None`` or ``"auto"``: not given.
        option: Options of the method.

    Raises:
        OptionError: If there is no such method, or ``quality`` is given together with a setting that it determines.
    """
    quality = settings.get("quality")
    others = [name for name in ("method", "steps", "rule", "preset") if settings[name] not in (None, "auto")]
    others += ["option"] if option else []
    if quality is not None and others:
        raise OptionError(f"--quality determines the method and its settings: leave out --{others[0]}, or --quality.")
    # Options without a method belong to mmps, which applies to every measurement.
    recommended = problem.recommended if option else problem.settings(score, op, quality=quality or "balanced")
    wanted = settings["method"]
    if wanted == "auto":
        arguments = dict(recommended)
    else:
        named = find_method(wanted)
        arguments = {"method": wanted if isinstance(wanted, str) and wanted in METHODS else named}
        if named.ratio_max is None and not named.starts_high and settings["preset"] is None:
            # Start at the level recommended for photographs: at higher ones the gradient of the network is mostly error.
            arguments |= {name: problem.recommended[name] for name in ("ratio_max",) if name in problem.recommended}
    arguments |= {name: settings[name] for name in ("steps", "rule", "preset") if settings[name] is not None}
    return arguments | dict(option)
