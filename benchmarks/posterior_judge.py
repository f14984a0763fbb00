"""Distances of samples from exact draws of the posterior. Metrics, all relative to 5,000 exact draws:

- SW: sliced Wasserstein-1 distance, mean over 100 random unit directions, in the units of ``x``;
- spread: mean standard deviation of the samples over the exact one, of the coordinates and of the measured values ``A(x)``;
- mean error: root mean square over the coordinates, in exact standard deviations;
- 50 % and 90 %: share of the exact draws inside the central intervals of the samples, mean over the coordinates;
- misfit: mean of ``|y - A(x)|^2`` over that of the exact draws;
- modes: L1 distance between the weights of a mixture's components among the samples and the exact weights, 0 to 2.
"""

from __future__ import annotations

import numpy as np
import torch
from posterior_problem import Problem
from torch import Tensor

__all__ = ["Judge"]

REFERENCE, DIRECTIONS = 5000, 100


class Judge:
    """Holds samples to the exact draws of one problem.

    Args:
        problem: The problem.
        seed: Of the exact draws and of the directions.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem = problem
        exact = problem.exact(REFERENCE, 2 * seed).double()
        self.seen, self.exact = problem.op(exact).flatten(1), exact.flatten(1)
        directions = torch.randn(
            self.exact.shape[1], DIRECTIONS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        self.directions = directions / directions.norm(dim=0)
        self.projected = (self.exact @ self.directions).sort(0).values
        self.mean, self.std, self.misfit = self.exact.mean(0), self.exact.std(0), self._misfit(self.seen)

    def __call__(self, samples: Tensor) -> dict[str, float]:
        """Return the figures of ``samples``, ``(N, *event)``."""
        samples = samples.double()
        seen, x = self.problem.op(samples).flatten(1), samples.flatten(1)
        figures = {
            "SW": self._distance(x),
            "spread": x.std(0).mean() / self.std.mean(),
            "spread of A(x)": seen.std(0).mean() / self.seen.std(0).mean(),
            "mean error": ((x.mean(0) - self.mean) / self.std).square().mean().sqrt(),
            "50 %": self._coverage(x, 0.5),
            "90 %": self._coverage(x, 0.9),
            "misfit": self._misfit(seen) / self.misfit,
        }
        if self.problem.modes is not None and self.problem.mode_weights is not None:
            figures["modes"] = (self.problem.modes(x).mean(0) - self.problem.mode_weights).abs().sum()
        return {name: float(f"{float(value):.4g}") for name, value in figures.items()}

    def _distance(self, x: Tensor) -> Tensor:
        r"""Return :math:`\int_0^1 |F^{-1}(q) - G^{-1}(q)|\, dq`, a sum over ``REFERENCE`` cells, mean over directions."""
        middles = (torch.arange(REFERENCE) + 0.5) * len(x) / REFERENCE
        return ((x @ self.directions).sort(0).values[middles.long()] - self.projected).abs().mean()

    def _coverage(self, x: Tensor, level: float) -> Tensor:
        low, high = torch.from_numpy(np.quantile(x.numpy(), [(1 - level) / 2, (1 + level) / 2], axis=0))
        return ((self.exact >= low) & (self.exact <= high)).double().mean()

    def _misfit(self, seen: Tensor) -> Tensor:
        return (self.problem.y.double().flatten(1) - seen).square().sum(1).mean()
