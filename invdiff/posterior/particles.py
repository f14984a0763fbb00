"""Diagnostics and weights of the groups of a particle method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Particles"]

TENSORS = ("inner_weights", "group_ess", "group_ancestors", "group_log_evidence")


@dataclass(frozen=True, eq=False)
class Particles:
    r"""Diagnostics of a particle method, whose samples are drawn in groups of particles.

    Attributes:
        group: Particles per group.
        weighted: Whether the samples keep their weights within a group. Otherwise each group was resampled to equal weights.
        inner_weights: Weights within the groups, summing to 1 over a whole group, ``(N, B)``.
        group_ess: Effective sample size of every group before the last resampling, ``(G, B)``.
        group_ancestors: Number of initial particles of every group with descendants among its particles, ``(G, B)``.
        group_log_evidence: Estimate of :math:`\log p(y)` from every group, ``(G, B)``.
    """

    group: int
    weighted: bool
    inner_weights: Tensor
    group_ess: Tensor
    group_ancestors: Tensor
    group_log_evidence: Tensor

    @cached_property
    def ess(self) -> Tensor:
        """Effective sample size of every item before the last resampling, summed over its groups, ``(B,)``."""
        return self.group_ess.sum(0)

    @cached_property
    def ancestors(self) -> Tensor:
        """Number of initial particles with descendants, ``(B,)``. If it is small, the samples are strongly dependent."""
        return self.group_ancestors.sum(0)

    @cached_property
    def log_evidence(self) -> Tensor:
        r"""Estimate of :math:`\log p(y)`, ``(B,)``. Its exponential is unbiased."""
        return self.group_log_evidence.logsumexp(0) - math.log(len(self.group_log_evidence))

    def weights(self) -> Tensor:
        """Return the weights of the samples, ``(N, B)``, not normalized. Weighted groups count by their evidence."""
        if not self.weighted:
            return self.inner_weights
        shares = self.group_log_evidence.softmax(0).repeat_interleave(self.group, 0)
        return self.inner_weights * shares[: len(self.inner_weights)]

    def joined(self, *later: Particles) -> Particles:
        """Return the diagnostics of these groups and of later ones."""
        together = {name: torch.cat([getattr(each, name) for each in (self, *later)]) for name in TENSORS}
        return Particles(self.group, self.weighted, **together)

    def item(self, number: int) -> Particles:
        """Return the diagnostics of one item."""
        of_item = {name: getattr(self, name)[:, number : number + 1] for name in TENSORS}
        return Particles(self.group, self.weighted, **of_item)
