"""Resolve names, presets and defaults to a fully specified run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from invdiff.linalg import largest_singular_value
from invdiff.methods.algorithm import Algorithm
from invdiff.methods.method import Method
from invdiff.methods.options import check_options, check_whole, options_of, suggestion
from invdiff.methods.particles.loop import ParticleMethod
from invdiff.methods.published import preset_for
from invdiff.methods.steps.rule import StepRule
from invdiff.methods.steps.rules import RULES
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel
from invdiff.schedules import time_grid

__all__ = ["ResolvedMethod", "resolve"]


@dataclass(frozen=True, eq=False)
class ResolvedMethod:
    """A method with all settings resolved.

    Attributes:
        method: The method.
        rule: The step rule, or ``None`` for the method's own step or loop.
        rule_name: Name of the rule in reports.
        steps: Number of steps.
        spacing: Spacing of the time grid.
        times: The time grid, ``(steps + 1,)``.
        options: Options of the algorithm.
    """

    method: Method
    rule: StepRule | None
    rule_name: str
    steps: int
    spacing: str
    times: Tensor
    options: Mapping[str, Any]

    def algorithm(self, score: ScoreModel, op: Operator, y: Tensor) -> Algorithm:
        """Return the algorithm for measurements ``y``, one row per sample."""
        try:
            return self.method.algorithm(score, op, y, **self.options)
        except TypeError as error:
            known = ", ".join(options_of(self.method.algorithm))
            raise TypeError(f"method {self.method.name!r}: {error}. It takes the options {known}.") from error

    def costs(self, score: ScoreModel) -> tuple[float, ...]:
        """Return the relative time of every step, ``(steps,)``."""
        ratios = [float(score.schedule.ratio(t)) for t in self.times[:-1]]
        return tuple(self.method.algorithm.relative_cost(ratio, self.options) for ratio in ratios)

    def group(self, score: ScoreModel, op: Operator, y: Tensor) -> int:
        """Return the number of samples drawn jointly: the particles of a group, or 1."""
        if not issubclass(self.method.algorithm, ParticleMethod):
            return 1
        algorithm = self.algorithm(score, op.take([0]), y[:1])
        assert isinstance(algorithm, ParticleMethod)
        return algorithm.particles


def resolve(
    score: ScoreModel, op: Operator, method: Method, given: Mapping[str, Any], options: Mapping[str, Any], preset: str | None
) -> ResolvedMethod:
    """Resolve all settings. Given settings take precedence over the preset, and the preset over the method's defaults.

    Args:
        score: The prior.
        op: The measurement.
        method: The method.
        given: Any of ``steps``, ``rule``, ``spacing``, ``ratio_max``, ``ratio_min``.
        options: Options of the algorithm.
        preset: ``"paper"`` or ``None``.

    Raises:
        ValueError: If a setting does not fit the method, or the preset does not exist.
        TypeError: If a setting has the wrong type.
    """
    names = ("steps", "rule", "spacing", "ratio_max", "ratio_min")
    published = {} if preset is None else preset_for(preset, method, op).settings
    settings = {name: getattr(method, name) for name in names}
    settings |= {name: value for name, value in published.items() if name in names} | dict(given)
    all_options = dict(method.options) | {name: value for name, value in published.items() if name not in names} | dict(options)
    rule_name, rule = _step_rule(method, settings["rule"])
    check_whole(steps=settings["steps"])
    check_options(method.name, method.algorithm, all_options)
    times = _times(score, op, settings)
    return ResolvedMethod(method, rule, rule_name, settings["steps"], settings["spacing"], times, all_options)


def _step_rule(method: Method, rule: str | StepRule | None) -> tuple[str, StepRule | None]:
    if rule is None:
        if not method.algorithm.own_step:
            raise ValueError(f"method {method.name!r} has no step of its own: give it a rule, one of {', '.join(RULES)}.")
        return "own", None
    if not method.follows_rules:
        raise ValueError(f"method {method.name!r} takes no step rule: it has its own steps. Leave out rule={rule!r}.")
    if not isinstance(rule, str):
        if not isinstance(rule, StepRule):
            raise TypeError(
                f"rule must be a name or a step rule, got {type(rule).__name__}. Derive yours from invdiff.methods.StepRule."
            )
        name, found = repr(rule), rule
    elif rule in RULES:
        name, found = rule, RULES[rule]
    else:
        hint = suggestion(rule, RULES)
        raise ValueError(f"Unknown step rule {rule!r}, expected one of {', '.join(RULES)}, or a StepRule object.{hint}")
    if found.follows_draws and not method.algorithm.can_draw:
        raise ValueError(
            f"rule {name!r} follows draws of x_0, and {method.name!r} has only its mean. Use 'mmps', or another rule. (An "
            "algorithm that implements posterior_draw declares can_draw = True.)"
        )
    return name, found


def _times(score: ScoreModel, op: Operator, settings: Mapping[str, Any]) -> Tensor:
    schedule = score.schedule
    smallest = float(schedule.ratio(schedule.t_min))
    largest = score.largest_ratio() if settings["ratio_max"] is None else settings["ratio_max"]
    ratio_min = settings["ratio_min"]
    if ratio_min is None:
        ratio_min = min(max(smallest, 0.1 * op.sigma_y / _norm(op)), largest / 10)
    return time_grid(schedule, settings["steps"], spacing=settings["spacing"], ratio_min=ratio_min, ratio_max=largest)


def _norm(op: Operator) -> float:
    """Return the largest singular value over the operators of all items; 1 if the operator is nonlinear."""
    return max((_norm_of(one) for one in op.distinct if isinstance(one, LinearOperator)), default=1.0)


def _norm_of(op: LinearOperator) -> float:
    if op.gram_scale is not None:  # Known without iterations, which take long for large images.
        return math.sqrt(op.gram_scale)
    return largest_singular_value(op.forward, op.adjoint, op.in_shape, device=op.device, dtype=op.dtype)
