"""The sequential Monte Carlo loop of all particle methods: weights, resampling and evidence."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from invdiff.methods.algorithm import Algorithm
from invdiff.methods.denoised import Denoised
from invdiff.methods.divergence import EXPLOSION, DivergenceError, lost
from invdiff.methods.on_step import OnStep
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw, Draws, Streams

__all__ = ["Cloud", "ParticleMethod", "Particles", "run_particles", "systematic_resampling"]


class Particles(Protocol):
    """States of particles and the quantities computed at them: :class:`~invdiff.methods.denoised.Denoised`, or more."""

    @property
    def x_t(self) -> Tensor:
        """The states, ``(B, *event)``."""
        ...

    @property
    def estimate(self) -> Tensor | None:
        """The denoised states, or ``None`` if they have not been computed."""
        ...

    def take(self, rows: Tensor) -> Self:
        """Return the selected rows."""
        ...


P = TypeVar("P", bound=Particles)


class ParticleMethod(Algorithm, Generic[P]):
    r"""The proposals and weights of a particle method: a sequence of weighted moves that ends at :math:`p(x_0 | y)`.

    Args:
        score: The prior.
        op: The measurement, with its noise model.
        y: Measurement, ``(B, *op.out_shape)``, one row per particle.
        particles: Particles per group, at least 2. Weights and resampling act within a group.
        weighted: Whether to return the last weights. Otherwise each group is resampled at the end to equal weights.

    Raises:
        ValueError: If the measurement lacks what the algorithm needs.
    """

    own_step = True

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, particles: int, weighted: bool) -> None:
        super().__init__(score, op, y)
        if particles < 2:
            raise ValueError(f"{type(self).__name__}: a group needs at least 2 particles, got particles={particles}.")
        self.particles, self.weighted = particles, weighted

    def first_state(self, t: Tensor, draw: Draw) -> Tensor:
        r"""Return :math:`x_T \sim \mathcal{N}(0, \sigma_T^2 I)`, ``(B, *event)``."""
        return float(self.score.schedule(t)[1]) * draw(self.op.in_shape)

    @abstractmethod
    def start(self, t: Tensor, draw: Draw) -> tuple[P, Tensor]:
        """Return the first particles and their log weights, ``(B,)``."""

    @abstractmethod
    def step(self, here: P, s: Tensor, draw: Draw) -> tuple[P | Denoised, Tensor]:
        """Return the particles at the earlier time ``s``, and the increments of the log weights, ``(B,)``.

        ``y`` is the same for all particles of a group, so rows of a group may be permuted between steps. At zero noise, where
        no further quantities are needed, a bare :class:`~invdiff.methods.denoised.Denoised` may be returned.
        """


@dataclass(frozen=True, eq=False)
class Cloud:
    r"""The result of a particle run. Rows of a group are adjacent.

    Attributes:
        x: Samples, ``(B, *event)``.
        weights: Weights, normalized in every group, ``(B,)``.
        log_evidence: Estimate of :math:`\log p(y)` from each group, ``(B / particles,)``.
        ess: Effective sample size of each group before the last resampling, ``(B / particles,)``.
        ancestors: Number of initial particles with descendants in each group, ``(B / particles,)``.
        equal: Whether the groups were resampled to equal weights.
    """

    x: Tensor
    weights: Tensor
    log_evidence: Tensor
    ess: Tensor
    ancestors: Tensor
    equal: bool = True


@torch.no_grad()
def run_particles(
    method: ParticleMethod[Any],
    times: Tensor,
    *,
    streams: Streams,
    resampling: Sequence[torch.Generator],
    on_step: OnStep | None = None,
) -> Cloud:
    r"""Move groups of particles along ``times``. A group is resampled when its effective sample size is below half its size.

    Args:
        method: The moves and their weights; holds ``y``, one row per particle, the rows of a group adjacent.
        times: Decreasing, ``(steps + 1,)``, the last one noise-free.
        streams: One random stream per row.
        resampling: One generator per group.
        on_step: Called after every step.

    Raises:
        DivergenceError: If a particle diverges.

    References:
        Del Moral, Doucet & Jasra, Sequential Monte Carlo samplers, 2006, https://arxiv.org/abs/cond-mat/0212648
    """
    n, dtype, last = method.particles, method.y.dtype, len(times) - 1
    bounds = (EXPLOSION * (1 + method.score.schedule(times)[1])).tolist()
    here: Any
    here, log_w = method.start(times[0], Draws(streams, dtype))
    x, log_w = here.x_t, log_w.reshape(-1, n)
    log_evidence = log_w.new_zeros(len(log_w))
    origin = torch.arange(n, device=log_w.device).expand(len(log_w), n)
    ess = _ess(log_w)
    poor = ess < n / 2
    resampled = poor.tolist()
    for step, s in enumerate(times[1:], start=1):
        if any(resampled):
            chosen = _resample(log_w, resampled, resampling)
            here, origin = here.take(_rows(chosen)), origin.gather(1, chosen)
            log_evidence = log_evidence + torch.where(poor, log_w.logsumexp(1) - math.log(n), 0)
            log_w = torch.where(poor[:, None], 0, log_w)
        there, increment = method.step(here, s, Draws(streams, dtype))
        log_w = log_w + increment.double().reshape(-1, n)
        log_w = torch.where(log_w.isnan(), -torch.inf, log_w)
        ess = _ess(log_w)
        poor, gone, dead = ess < n / 2, lost(there.x_t, bounds[step]), log_w.amax(1) == -torch.inf
        # One look per step: a GPU is waited for at each.
        looks = torch.cat([gone, dead, poor]).tolist()
        diverged, zero, resampled = looks[: len(x)], looks[len(x) : -len(poor)], looks[-len(poor) :]
        if any(diverged):
            row = diverged.index(True)
            raise DivergenceError(f"diverged at step {step}, row {row}", step=step, row=row)
        if any(zero):
            row = n * zero.index(True)
            raise DivergenceError(f"all weights are zero at step {step}, from row {row} on", step=step, row=row)
        x, estimate = there.x_t, here.estimate
        if step == last:
            log_evidence = log_evidence + log_w.logsumexp(1) - math.log(n)
            if not method.weighted:
                chosen = _resample(log_w, [True] * len(log_w), resampling)
                x, origin, log_w = x[_rows(chosen)], origin.gather(1, chosen), torch.zeros_like(log_w)
                estimate = None if estimate is None else estimate[_rows(chosen)]
        if on_step is not None:
            on_step(x, estimate)
        here = there
    ancestors = 1 + (origin.sort(1).values.diff(dim=1) != 0).sum(1)
    return Cloud(x, log_w.softmax(1).flatten(), log_evidence, ess, ancestors, equal=not method.weighted)


def systematic_resampling(weights: Tensor, u: Tensor | float) -> Tensor:
    r"""Return :math:`n` indices, each :math:`i` either :math:`\lfloor n w_i \rfloor` or :math:`\lceil n w_i \rceil` times.

    Args:
        weights: :math:`w`, summing to 1, ``(n,)``.
        u: The only random number, uniform in [0, 1).
    """
    positions = (torch.arange(len(weights), dtype=weights.dtype, device=weights.device) + u) / len(weights)
    return torch.searchsorted(weights.cumsum(0), positions, right=True).clamp(max=len(weights) - 1)


def _ess(log_w: Tensor) -> Tensor:
    return 1 / log_w.softmax(1).square().sum(1)


def _resample(log_w: Tensor, which: Sequence[bool], generators: Sequence[torch.Generator]) -> Tensor:
    """Return the parent of every particle, ``(groups, n)``: resampled and shuffled in the groups selected by ``which``."""
    groups, n = log_w.shape
    parents = torch.arange(n, device=log_w.device).repeat(groups, 1)
    for g in [g for g, wanted in enumerate(which) if wanted]:
        u = torch.rand((), generator=generators[g], device=generators[g].device, dtype=torch.float64)
        order = torch.randperm(n, generator=generators[g], device=generators[g].device)
        parents[g] = systematic_resampling(log_w[g].softmax(0), u)[order]
    return parents


def _rows(chosen: Tensor) -> Tensor:
    """Return the rows of the batch for the indices chosen within each group."""
    groups, n = chosen.shape
    return (chosen + n * torch.arange(groups, device=chosen.device)[:, None]).flatten()
