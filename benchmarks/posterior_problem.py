"""The data structures of the problems of ``posterior.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from invdiff.operators import Operator
from invdiff.priors import ScoreModel

__all__ = ["Case", "Problem", "Sampled"]


@dataclass(frozen=True, eq=False)
class Problem:
    """One measurement and its exact posterior.

    Attributes:
        score: The prior.
        op: The measurement.
        y: What was measured, ``(1, *out_shape)``.
        exact: ``exact(count, seed)`` returns draws of the posterior, ``(count, *event)``.
        conditional: The posterior as a prior, whose denoiser is the exact :math:`E[x_0 | x_t, y]`, where it is known.
        basis: Its coordinates are those of ``x @ basis``; ``None`` for those of ``x``.
        modes: Probabilities of the components of a mixture for every sample, ``(N, n) -> (N, K)``.
        mode_weights: Their exact posterior weights, ``(K,)``.
    """

    score: ScoreModel
    op: Operator
    y: Tensor
    exact: Callable[[int, int], Tensor]
    conditional: ScoreModel | None = None
    basis: Tensor | None = None
    modes: Callable[[Tensor], Tensor] | None = None
    mode_weights: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Sampled:
    """Samples ``(N, *event)``, with the network's evaluations and vector-Jacobian products per sample, where counted."""

    samples: Tensor
    nfe: float | None = None
    nvjp: float | None = None


@dataclass(frozen=True)
class Case:
    """A family of problems, one per draw.

    Attributes:
        build: Returns the problem of a draw.
        draws: Draws at most: a large posterior averages within one.
        share: Share of the samples asked for.
    """

    build: Callable[[int], Problem]
    draws: int = 1000
    share: float = 1.0
