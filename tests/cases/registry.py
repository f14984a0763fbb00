"""Registry of the cases of each class. They are built once, on first use, by the tests that need them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import pytest
import torch
from helpers import all_subclasses

__all__ = ["Case", "build", "cases_of", "chosen_device", "has_cases", "over", "select", "selected"]

T = TypeVar("T")

_BUILDERS: dict[type, tuple[Callable[[], Sequence[Any]], int]] = {}
_only: str | None = None
_quick = False
_device = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """One instance of a class, not yet built."""

    cls: type
    index: int

    def __str__(self) -> str:
        return f"{self.cls.__name__}-{self.index}"

    def build(self) -> Any:
        """Return the instance, the same on every call but for the copy that ``--device`` asks for."""
        instance = build(self.cls)[self.index]
        return instance.to(_device) if _device.type != "cpu" and hasattr(instance, "to") else instance


def cases_of(cls: type[T], count: int) -> Callable[[Callable[[], Sequence[T]]], Callable[[], Sequence[T]]]:
    """Register a function that builds the ``count`` cases of ``cls``, one for each path through its code.

    The count is given in advance, so that tests can be collected before anything is built.
    """

    def register(builder: Callable[[], Sequence[T]]) -> Callable[[], Sequence[T]]:
        assert cls not in _BUILDERS, f"{cls.__name__} has cases in two places"
        _BUILDERS[cls] = builder, count
        return builder

    return register


def build(cls: type[T]) -> Sequence[T]:
    """Return the cases of ``cls``, built once."""
    return _built(cls)


@functools.cache
def _built(cls: type) -> Sequence[Any]:
    builder, count = _BUILDERS[cls]
    built = builder()
    assert len(built) == count, f"@cases_of({cls.__name__}, {count}) built {len(built)} cases: correct the number"
    assert all(type(each) is cls for each in built), f"the cases of {cls.__name__} must be of that class"
    return built


def has_cases(cls: type) -> bool:
    """Return whether cases of ``cls`` are registered."""
    return cls in _BUILDERS


def select(name: str | None, *, quick: bool, device: torch.device) -> None:
    """Select only classes of this name (``None``: all classes) and, if ``quick``, only tests not marked ``slow``.

    Cases are moved to ``device``, and so are the tensors that the laws give them.
    """
    global _only, _quick, _device
    _only, _quick, _device = name, quick, device


def chosen_device() -> torch.device:
    """Return the device of the laws, that of ``--device``."""
    return _device


def selected(base: type, where: Callable[[type], bool] = lambda cls: True) -> list[Case]:
    """Return the cases, not yet built, of ``base`` and its subclasses for which ``where`` holds."""
    classes = [
        cls for cls in [base, *all_subclasses(base)] if cls in _BUILDERS and where(cls) and _only in (None, cls.__name__)
    ]
    return [Case(cls, k) for cls in classes for k in range(_BUILDERS[cls][1])]


def over(argument: str, cases: Sequence[Case], *, rest: Literal["slow", "quick"] = "slow") -> pytest.MarkDecorator:
    """Parametrize a test over cases, each built just before its test. All but the first of a class are ``slow`` by default."""
    if _quick and rest == "slow":  # Not even collected, because collection takes time too.
        cases = [case for case in cases if case.index == 0]
    marks = [[pytest.mark.slow] if case.index and rest == "slow" else [] for case in cases]
    return pytest.mark.parametrize(
        argument, [pytest.param(case, id=str(case), marks=mark) for case, mark in zip(cases, marks, strict=True)]
    )
