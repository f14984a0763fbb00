"""The particle loop: weights, resampling and the evidence, for every particle method."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invdiff.methods.requirements import check_needs
from invdiff.methods.samplers.base import EXPLOSION, DivergenceError, check_bounds
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw, Draws, Streams

__all__ = ["Cloud", "ParticleMethod", "run_particles", "systematic_resampling"]


class ParticleMethod(ABC):
    r"""A sequence of weighted moves whose last law is :math:`p(x_0 | y)`: what distinguishes one particle method from another.

    Args:
        score: The prior.
        op: The measurement, with its noise model.
        y: What was measured, ``(B, *op.out_shape)``, one row per particle.
        particles: Particles in a group, at least 2: those that compete with each other.
        weighted: Whether the last weights are handed out. Otherwise each group is resampled at the end to equal weights.

    Attributes:
        needs: What the algorithm requires of a measurement, keys of :data:`invdiff.methods.requirements.NEEDS`.
        any_noise: Whether it takes other laws than white Gaussian noise.
        one_operator: Whether all rows have to share one operator. Where items have operators of their own
            (:func:`invdiff.operators.algebra.per_item`), they are then run one after the other.

    Raises:
        ValueError: If the measurement lacks what the algorithm needs.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    any_noise: ClassVar[bool] = False
    one_operator: ClassVar[bool] = False

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, particles: int, weighted: bool) -> None:
        check_needs(type(self).__name__, op, self.needs, any_noise=self.any_noise, one_operator=self.one_operator)
        if particles < 2:
            raise ValueError(f"{type(self).__name__}: a group needs at least 2 particles, got particles={particles}.")
        self.score, self.op, self.y, self.particles, self.weighted = score, op, y, particles, weighted

    def start(self, t: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        r"""Return the first states :math:`x_T`, ``(B, *event)``, and their log weights, ``(B,)``."""
        x_t = float(self.score.schedule(t)[1]) * draw(self.op.in_shape)
        return x_t, x_t.new_zeros(len(x_t), dtype=torch.float64)

    @abstractmethod
    def step(self, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return the states at the earlier time ``s``, and by how much the log weights change, ``(B,)``.

        ``y`` is the same for all particles of a group, so rows of a group may be exchanged between steps.
        """

    def take(self, x_t: Tensor, rows: Tensor) -> Tensor:
        """Return the rows of the states that go on. What has been computed at them may go with them."""
        return x_t[rows]


@dataclass(frozen=True, eq=False)
class Cloud:
    """What is left at the end of a particle run; rows of a group are neighbours.

    Attributes:
        x: ``(B, *event)``.
        weights: Normalised in every group, ``(B,)``.
        log_evidence: Estimate of :math:`\\log p(y)` by each group, ``(B / particles,)``.
        ess: Effective sample size of each group before the last resampling.
        ancestors: How many of the first particles have descendants in each group.
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
    method: ParticleMethod,
    times: Tensor,
    *,
    streams: Streams,
    resampling: Sequence[torch.Generator],
    on_step: Callable[[], object] | None = None,
) -> Cloud:
    r"""Carry groups of particles down ``times``; a group is resampled when its effective sample size falls below half.

    Args:
        method: The moves and their weights; holds ``y``, one row per particle, the rows of a group side by side.
        times: Decreasing, ``(steps + 1,)``, the last one noise-free.
        streams: One random stream per row.
        resampling: One generator per group.
        on_step: Called after every step.

    Raises:
        DivergenceError: If a particle diverges.

    References:
        Del Moral, Doucet & Jasra, Sequential Monte Carlo samplers, 2006, https://arxiv.org/abs/cond-mat/0212648
    """
    n, dtype = method.particles, method.y.dtype
    x_t, log_w = method.start(times[0], Draws(streams, dtype))
    log_w = log_w.reshape(-1, n)
    log_evidence = log_w.new_zeros(len(log_w))
    origin = torch.arange(n, device=log_w.device).expand(len(log_w), n)
    ess = _ess(log_w)
    for step, (t, s) in enumerate(itertools.pairwise(times)):
        poor = ess < n / 2
        if poor.any():
            chosen = _resample(log_w, poor, resampling)
            x_t, origin = method.take(x_t, _rows(chosen)), origin.gather(1, chosen)
            log_evidence = log_evidence + torch.where(poor, log_w.logsumexp(1) - math.log(n), 0)
            log_w = torch.where(poor[:, None], 0, log_w)
        x_t, increment = method.step(x_t, t, s, Draws(streams, dtype))
        check_bounds(x_t, bound=EXPLOSION * (1 + float(method.score.schedule(s)[1])), step=step + 1)
        log_w = log_w + increment.double().reshape(-1, n)
        log_w = torch.where(log_w.isnan(), -torch.inf, log_w)
        if (log_w.amax(1) == -torch.inf).any():
            row = n * int((log_w.amax(1) == -torch.inf).nonzero()[0])
            raise DivergenceError(f"all weights are zero at step {step + 1}, from row {row} on", step=step + 1, row=row)
        ess = _ess(log_w)
        if on_step is not None:
            on_step()
    log_evidence = log_evidence + log_w.logsumexp(1) - math.log(n)
    if not method.weighted:
        chosen = _resample(log_w, torch.ones_like(ess, dtype=torch.bool), resampling)
        x_t, origin, log_w = x_t[_rows(chosen)], origin.gather(1, chosen), torch.zeros_like(log_w)
    ancestors = torch.tensor([len(group.unique()) for group in origin], device=origin.device)
    return Cloud(x_t, log_w.softmax(1).flatten(), log_evidence, ess, ancestors, equal=not method.weighted)


def systematic_resampling(weights: Tensor, u: float) -> Tensor:
    r"""Return :math:`n` indices, each :math:`i` either :math:`\lfloor n w_i \rfloor` or :math:`\lceil n w_i \rceil` times.

    Args:
        weights: :math:`w`, summing to 1, ``(n,)``.
        u: Uniform in [0, 1): the one random number.
    """
    positions = (torch.arange(len(weights), dtype=weights.dtype, device=weights.device) + u) / len(weights)
    return torch.searchsorted(weights.cumsum(0), positions, right=True).clamp(max=len(weights) - 1)


def _ess(log_w: Tensor) -> Tensor:
    return 1 / log_w.softmax(1).square().sum(1)


def _resample(log_w: Tensor, which: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Return the parent of every particle, ``(groups, n)``: resampled, and shuffled, in the groups of ``which``."""
    groups, n = log_w.shape
    parents = torch.arange(n, device=log_w.device).repeat(groups, 1)
    for g in which.nonzero().flatten().tolist():
        u = float(torch.rand((), generator=generators[g], device=generators[g].device, dtype=torch.float64))
        order = torch.randperm(n, generator=generators[g], device=generators[g].device)
        parents[g] = systematic_resampling(log_w[g].softmax(0), u)[order]
    return parents


def _rows(chosen: Tensor) -> Tensor:
    """Return the rows of the batch that are chosen within each group."""
    groups, n = chosen.shape
    return (chosen + n * torch.arange(groups, device=chosen.device)[:, None]).flatten()
