"""Denoising."""

from __future__ import annotations

from invdiff.operators import Identity, Noise, Operator

from .problem import Problem, photographs

__all__ = ["Denoise"]


class Denoise(Problem):
    """Remove noise of a known distribution, such as Gaussian noise with a known standard deviation."""

    name = "denoise"
    needs = "--noise above 0"
    accepts_noise = "above 0"
    measures = "Identity"
    recommended = photographs(max_iterations=4)
    leaves_white = True

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        return Identity(shape, noise=noise)
