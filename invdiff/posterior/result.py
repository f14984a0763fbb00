"""Posterior samples and their statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from invdiff.posterior.notebook import posterior_html

__all__ = ["Particles", "Posterior"]


@dataclass(frozen=True, eq=False)
class Particles:
    r"""Diagnostics of a particle method.

    Attributes:
        ess: Effective sample size of every item before the last resampling, summed over its groups, ``(B,)``.
        ancestors: Number of initial particles with descendants among the samples, ``(B,)``. If it is small, the samples are
            strongly dependent.
        log_evidence: Estimate of :math:`\log p(y)`, ``(B,)``. Its exponential is unbiased.
    """

    ess: Tensor
    ancestors: Tensor
    log_evidence: Tensor


@dataclass(frozen=True, eq=False)
class Posterior:
    """Samples of p(x | y), with diagnostics and the settings of the run.

    Attributes:
        samples: Samples, ``(N, B, *event)``: sample ``k`` of item ``b`` is ``samples[k, b]``.
        weights: Weights, ``(N, B)``, summing to 1 over the samples; equal except for particle methods.
        residual: Squared misfit over the noise variance, ``(N, B)``, to compare with chi-square of ``dof`` degrees of freedom
            (:func:`~invdiff.posterior.chi_square`). If the noise is 0, the squared misfit itself.
        dof: Number of measured values per item: a scalar, or ``(B,)`` if it differs between the operators of the items.
        nfe: Network evaluations per returned sample, including those of all particles of its group and its share of the pilot
            run by which ``"auto"`` chose the method. The pilot counts in every run, although a sampler runs it only once.
        nvjp: Vector-Jacobian products of the network per returned sample, counted like ``nfe``.
        seconds: Wall time, in seconds.
        method: Name of the method.
        seed: Random seed of the run.
        options: All other settings of the run; under ``"auto"`` also the reason for the choice, in ``options["auto"]``.
        particles: Diagnostics of the particles, for particle methods; otherwise ``None``.
        notes: Messages about misfits far from their expected value, with likely causes.
    """

    samples: Tensor
    weights: Tensor
    residual: Tensor
    dof: int | Tensor
    nfe: float
    nvjp: float
    seconds: float
    method: str
    seed: int
    options: Mapping[str, Any]
    particles: Particles | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def mean(self) -> Tensor:
        """Weighted mean of the samples, ``(B, *event)``."""
        return (self._weights * self.samples).sum(0)

    @cached_property
    def std(self) -> Tensor:
        r"""Standard deviation of the samples, ``(B, *event)``.

        The unbiased variance for equal weights, and :math:`\sum w (x - m)^2 / (1 - \sum w^2)` in general. NaN for one sample.
        """
        square = (self._weights * (self.samples - self.mean) ** 2).sum(0)
        return (square / (1 - (self._weights**2).sum(0))).sqrt()

    def quantile(self, q: float) -> Tensor:
        """Return the weighted ``q``-quantile of every entry, ``(B, *event)``; for equal weights linear between samples."""
        if not 0 <= q <= 1:
            raise ValueError(f"quantile: q must lie in [0, 1], got {q}.")
        if bool((self.weights == self.weights[:1]).all()):
            # torch.quantile refuses large inputs; a sort does not.
            ordered, position = self.samples.sort(0).values, q * (len(self.samples) - 1)
            below = int(position)
            return torch.lerp(ordered[below], ordered[min(below + 1, len(ordered) - 1)], position - below)
        ordered, order = self.samples.sort(0)
        cumulative = self._weights.expand_as(self.samples).gather(0, order).cumsum(0)
        index = (cumulative < q).sum(0, keepdim=True).clamp(max=len(ordered) - 1)
        return ordered.gather(0, index).squeeze(0)

    @cached_property
    def ess(self) -> Tensor:
        r"""Effective sample size :math:`(\sum w)^2 / \sum w^2` per item, ``(B,)``. For particles, before resampling."""
        return 1 / (self.weights**2).sum(0) if self.particles is None else self.particles.ess

    @property
    def _weights(self) -> Tensor:
        return self.weights.reshape(*self.weights.shape, *(1,) * (self.samples.ndim - 2)).to(self.samples)

    def __repr__(self) -> str:
        count, items, *event = self.samples.shape
        shape = " x ".join(map(str, (items, *event)))
        steps = f", {self.options['steps']} steps" if "steps" in self.options else ""
        return (
            f"Posterior({count} samples of {shape} by {self.method!r}{steps}, {self.nfe:.4g} evaluations, "
            f"{self.nvjp:.4g} gradients, {self.seconds:.3g} s)"
        )

    def _repr_html_(self) -> str:
        """Return HTML for notebooks: the summary, and mean and standard deviation if the samples are images."""
        return posterior_html(self)
