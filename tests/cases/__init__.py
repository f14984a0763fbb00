"""Small instances of every class for the property tests (laws), one file per package: what to build, not what to test."""

from . import algebra, blur, generic, noises, nonlinear, priors, problems, resampling, sampling, schedules, transforms
from .registry import Case, build, cases_of, chosen_device, has_cases, over, select, selected

__all__ = [
    "Case",
    "algebra",
    "blur",
    "build",
    "cases_of",
    "chosen_device",
    "generic",
    "has_cases",
    "noises",
    "nonlinear",
    "over",
    "priors",
    "problems",
    "resampling",
    "sampling",
    "schedules",
    "select",
    "selected",
    "transforms",
]
