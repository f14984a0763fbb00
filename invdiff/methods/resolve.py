"""From names and defaults to a run that is fully specified."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from invdiff.linalg import largest_singular_value
from invdiff.methods import RULES, Method
from invdiff.methods.guidance import Guidance
from invdiff.methods.guidance.base import StepRule
from invdiff.methods.particles import ParticleMethod
from invdiff.methods.samplers import Sampler
from invdiff.operators import LinearOperator, Operator
from invdiff.presets import preset_for
from invdiff.priors import ScoreModel
from invdiff.schedules import time_grid

__all__ = ["Plan", "make_plan", "whole"]


@dataclass(frozen=True, eq=False)
class Plan:
    """A method with every setting decided.

    Attributes:
        method: The method.
        rule: The step rule, or nothing for the method's own step or loop.
        rule_name: What a report calls it.
        steps: Steps.
        spacing: How the times are laid out.
        times: The grid, ``(steps + 1,)``.
        options: Options of the algorithm.
    """

    method: Method
    rule: StepRule | None
    rule_name: str
    steps: int
    spacing: str
    times: Tensor
    options: Mapping[str, Any]

    def algorithm(self, score: ScoreModel, op: Operator, y: Tensor) -> Guidance | Sampler | ParticleMethod:
        """Return the algorithm for measurements ``y``, one row per sample."""
        try:
            return self.method.algorithm(score, op, y, **self.options)
        except TypeError as error:
            raise TypeError(f"method {self.method.name!r}: {error}. See its page for the options it takes.") from error

    def group(self, score: ScoreModel, op: Operator, y: Tensor) -> int:
        """Return how many samples are drawn together: the particles of a group, or 1."""
        algorithm = self.algorithm(score, op.take([0]), y[:1])
        return algorithm.particles if isinstance(algorithm, ParticleMethod) else 1


def make_plan(
    score: ScoreModel, op: Operator, method: Method, given: Mapping[str, Any], options: Mapping[str, Any], preset: str | None
) -> Plan:
    """Decide every setting: what was given, over the preset, over the method's own.

    Args:
        score: The prior.
        op: The measurement.
        method: The method.
        given: Any of ``steps``, ``rule``, ``spacing``, ``ratio_max``, ``ratio_min``.
        options: Options of the algorithm.
        preset: ``"paper"`` or nothing.

    Raises:
        ValueError: If a setting does not fit the method, or there is no such preset.
        TypeError: If one is of the wrong kind.
    """
    names = ("steps", "rule", "spacing", "ratio_max", "ratio_min")
    published = {} if preset is None else preset_for(preset, method.name, op).settings
    settings = {name: getattr(method, name) for name in names}
    settings |= {name: value for name, value in published.items() if name in names} | dict(given)
    all_options = dict(method.options) | {name: value for name, value in published.items() if name not in names} | dict(options)
    rule_name, rule = _step_rule(method, settings["rule"])
    expected = inspect.signature(method.algorithm).parameters
    counts = {name: value for name, value in all_options.items() if name in expected and expected[name].annotation == "int"}
    whole(steps=settings["steps"], **counts)
    times = _times(score, op, settings)
    return Plan(method, rule, rule_name, settings["steps"], settings["spacing"], times, all_options)


def whole(**numbers: Any) -> None:
    """Raise a ``TypeError`` unless every argument is a whole number."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not hasattr(number, "__index__"):
            raise TypeError(f"{name} must be a whole number, got {number!r}.")


def _step_rule(method: Method, rule: str | StepRule | None) -> tuple[str, StepRule | None]:
    if rule is None:
        if issubclass(method.algorithm, Guidance) and not method.algorithm.own_step:
            raise ValueError(f"method {method.name!r} has no step of its own: give it a rule, one of {', '.join(RULES)}.")
        return "own", None
    if not method.follows_rules:
        raise ValueError(f"method {method.name!r} takes no step rule: its steps are its own. Leave out rule={rule!r}.")
    if not isinstance(rule, str):
        if not callable(rule):
            raise TypeError(f"rule must be a name or a step rule, got {type(rule).__name__}.")
        name, found = repr(rule), rule
    elif rule in RULES:
        name, found = rule, RULES[rule]
    else:
        raise ValueError(f"Unknown step rule {rule!r}, expected one of {', '.join(RULES)}, or a step rule.")
    if getattr(found, "follows_draws", False) and method.algorithm.posterior_draw is Guidance.posterior_draw:  # type: ignore[union-attr]
        raise ValueError(
            f"rule {name!r} follows draws of x_0, and {method.name!r} has only its mean. Use 'mmps', or another rule."
        )
    return name, found


def _times(score: ScoreModel, op: Operator, settings: Mapping[str, Any]) -> Tensor:
    schedule = score.schedule
    smallest = float(schedule.ratio(schedule.t_min))
    largest = score.largest_ratio() if settings["ratio_max"] is None else settings["ratio_max"]
    ratio_min = settings["ratio_min"]
    if ratio_min is None:
        ratio_min = min(max(smallest, 0.1 * op.sigma_y / _gain(op)), largest / 10)
    return time_grid(schedule, settings["steps"], spacing=settings["spacing"], ratio_min=ratio_min, ratio_max=largest)


def _gain(op: Operator) -> float:
    """Return the largest singular value of the operator, of all where items have their own; 1 for a nonlinear one."""
    linear = [one for one in op.distinct if isinstance(one, LinearOperator)]
    gains = (largest_singular_value(one.forward, one.adjoint, one.in_shape, device=op.device, dtype=op.dtype) for one in linear)
    return max(gains, default=1.0)
