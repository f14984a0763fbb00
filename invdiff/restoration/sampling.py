"""Sampler arguments of a restoration: the settings of the user, over those of the problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from invdiff.methods import METHODS, Method
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


def sampler_arguments(problem: Problem, settings: Mapping[str, Any], option: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of :class:`~invdiff.PosteriorSampler`.

    Args:
        problem: The problem.
        settings: ``method``, ``steps``, ``rule``, ``preset``, and optionally ``quality``; ``None`` or ``"auto"``: not given.
        option: Options of the method.

    Raises:
        OptionError: If there is no such method, or ``quality`` is given together with a setting that it determines.
    """
    quality, method = settings.get("quality"), settings["method"]
    given = {name: settings[name] for name in ("steps", "rule", "preset") if settings[name] is not None}
    others = [*(["method"] if method != "auto" else []), *given, *(["option"] if option else [])]
    if quality is not None and others:
        raise OptionError(f"--quality determines the method and its settings: leave out --{others[0]}, or --quality.")
    if quality is not None:
        return {"quality": quality}
    if method == "auto":
        return {"method": "auto", **problem.recommended, **given, **option}
    named = find_method(method)
    return {"method": method if isinstance(method, str) and method in METHODS else named, **given, **option}
