"""Taking noise away."""

from __future__ import annotations

from typing import Self

from invdiff.operators import Identity, Operator

from .problem import Problem, photographs

__all__ = ["Denoise"]


class Denoise(Problem):
    """Take away Gaussian noise of a known standard deviation."""

    name = "denoise"
    summary = "take noise of a known strength away"
    needs = ("--noise",)
    recommended = photographs(max_iterations=4)
    leaves_white = True

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls()]

    def operator(self, shape: tuple[int, int, int], *, sigma_y: float) -> Operator:
        return Identity(shape, sigma_y=sigma_y)
