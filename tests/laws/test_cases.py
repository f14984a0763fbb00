"""Every class has cases, and every case says what it is."""

from __future__ import annotations

import pytest
from cases import has_cases, over, selected
from helpers import all_subclasses

from invdiff.operators import Jacobian, Noise, Operator
from invdiff.priors import Gaussian, ScoreModel
from invdiff.problems import Problem
from invdiff.schedules import Schedule

EXCEPT: dict[type, str] = {Jacobian: "tested through the nonlinear operators it derives from"}


@pytest.mark.parametrize("base", [Operator, Noise, Schedule, Problem], ids=lambda base: base.__name__)
def test_every_class_has_cases(base: type) -> None:
    # A class is an interface or final: those that others build on are tested through these.
    final = [cls for cls in all_subclasses(base) if not cls.__subclasses__()]
    missing = [cls.__name__ for cls in final if not has_cases(cls) and cls not in EXCEPT]
    assert not missing, f"register cases of {', '.join(missing)} in tests/cases, with @cases_of"


def test_every_analytic_prior_has_cases() -> None:
    analytic = Gaussian.__module__.rpartition(".")[0]  # Priors made of others, or of networks, have tests of their own.
    assert all(has_cases(cls) for cls in all_subclasses(ScoreModel) if cls.__module__.startswith(analytic))


@over("instance", [case for base in (Operator, Noise, Schedule, ScoreModel) for case in selected(base)], rest="quick")
def test_repr_is_one_short_line_that_names_the_class(instance: object) -> None:
    shown = repr(instance)
    assert shown.startswith(f"{type(instance).__name__}(")
    assert "\n" not in shown
    assert " object at 0x" not in shown
    assert len(shown) < 200
