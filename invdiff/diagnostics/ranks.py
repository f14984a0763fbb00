"""Ranks of the truth among posterior samples, and the coverage of intervals: what exact samples make uniform."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from invdiff.random import generator

__all__ = ["Coverage", "RankTest", "coverage", "merge_repeats", "rank_bounds", "rank_test", "ranks"]


@dataclass(frozen=True)
class RankTest:
    r"""What the ranks of independent cases say about the sampler.

    Attributes:
        p_value: Of uniform ranks: twice the smaller of the two below, at most 1.
        p_shape: Exact Kolmogorov-Smirnov test: sees any departure, large ones of the spread among them.
        p_moments: Neyman's smooth test of order two: sees shift and spread with far fewer cases.
        shift: :math:`2 \bar u - 1` in [-1, 1]: the truth lies below (negative) or above the samples.
        spread: Variance of the ranks about one half over that of exact samples: above 1 the samples are too narrow (or
            shifted), below 1 too wide; 3 at most.
        cases: Number of cases.
    """

    p_value: float
    p_shape: float
    p_moments: float
    shift: float
    spread: float
    cases: int


@dataclass(frozen=True)
class Coverage:
    """How often intervals held the truth.

    Attributes:
        level: Share that exact samples reach in expectation, for any number of samples.
        observed: Share seen.
        error: Standard error of ``observed`` over independent cases.
        p_value: Two-sided, of ``level``.
        cases: Number of cases.
    """

    level: float
    observed: float
    error: float
    p_value: float
    cases: int


def rank_bounds(truth: Tensor, samples: Tensor, *, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Return the interval in [0, 1] in which the rank of the truth lies, before the toss that decides.

    With :math:`W_<` and :math:`W_=` the weights of the samples below the truth and level with it, and :math:`E` the effective
    sample size (the number of samples, for equal weights), the truth counting as one sample more:

    .. math:: \Big[\frac{E\, W_<}{E + 1},\; \frac{E\, (W_< + W_=) + 1}{E + 1}\Big]

    A uniform draw from it is uniform on [0, 1] whenever truth and samples are exchangeable: exactly so for equal
    weights, ties included; for unequal ones as the samples grow many.

    Args:
        truth: ``(n, *event)``.
        samples: ``(M, n, *event)``.
        weights: ``(M, n)``, summing to 1 over the samples. Default: equal.
    """
    if not len(truth) or not len(samples) or samples.shape[1:] != truth.shape:
        raise ValueError(
            "ranks: expected truth (n, *event) and samples (M, n, *event), "
            f"got {tuple(truth.shape)} and {tuple(samples.shape)}."
        )
    if weights is None:
        weights = torch.full(samples.shape[:2], 1 / len(samples), dtype=torch.float64, device=truth.device)
    if weights.shape != samples.shape[:2] or not (weights >= 0).all() or (weights.sum(0) - 1).abs().max() > 1e-4:
        raise ValueError(
            f"ranks: weights must have shape {tuple(samples.shape[:2])}, be at least 0 and sum to 1 over the samples."
        )
    if not (truth.isfinite().all() and samples.isfinite().all()):
        raise ValueError("ranks: truth and samples must be finite.")
    w = weights.double().reshape(*weights.shape, *(1,) * (truth.ndim - 1))
    size = 1 / (w**2).sum(0)
    below, level = (w * (samples < truth)).sum(0), (w * (samples == truth)).sum(0)
    return size * below / (size + 1), (size * (below + level) + 1) / (size + 1)


def ranks(truth: Tensor, samples: Tensor, *, seed: int, weights: Tensor | None = None) -> Tensor:
    r"""Return the rank of each truth among its samples as a share, in [0, 1], shaped like ``truth``, float64.

    For equal weights without ties it is :math:`(r + U) / (M + 1)` with :math:`r \in 0 \dots M` the number of samples below
    and :math:`U` uniform; ties are broken at random. Uniform if the samples are exact posterior draws and the truth is a draw
    of the prior, whatever the statistic: it may depend on the data. Ranks of statistics that do not (pixels, projections) are
    uniform for samples of the prior too, and cannot see a sampler that ignores ``y``.

    Args:
        truth: The statistic of the truth, ``(n, *event)``.
        samples: The statistic of the samples, ``(M, n, *event)``.
        seed: Of the tosses; those of case ``b`` depend on ``(seed, b)`` alone.
        weights: ``(M, n)``, summing to 1 over the samples. Default: equal.

    References:
        Talts et al., Validating Bayesian Inference Algorithms with Simulation-Based Calibration, 2018,
        https://arxiv.org/abs/1804.06788; Modrák et al., Simulation-Based Calibration Checking for Bayesian Computation: The
        Choice of Test Quantities Shapes Sensitivity, 2023, https://arxiv.org/abs/2211.02383. Departure: a share instead of a
        whole number, so that weighted samples fit in.
    """
    low, high = rank_bounds(truth, samples, weights=weights)
    tosses = [
        torch.rand(truth.shape[1:], generator=generator(seed, "diagnose", b, 0), dtype=low.dtype) for b in range(len(low))
    ]
    return torch.lerp(low, high, torch.stack(tosses).to(low.device))


def rank_test(values: Tensor) -> RankTest:
    r"""Test that ranks of independent cases are uniform on [0, 1].

    The smooth test of order two holds :math:`n (h_1^2 + h_2^2)` against :math:`\chi^2_2`, with :math:`h_1, h_2` the means of
    the normalised Legendre polynomials :math:`\sqrt 3\, v` and :math:`\tfrac{\sqrt 5}{2} (3 v^2 - 1)`, :math:`v = 2 u - 1`.

    Args:
        values: ``(n,)``, what :func:`ranks` returns for one scalar statistic. From 10 cases on the p-values hold.

    References:
        Neyman, "Smooth" test for goodness of fit, 1937, https://doi.org/10.1080/03461238.1937.10404821
    """
    if values.ndim != 1 or not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"rank_test: expected ranks of shape (n,) in [0, 1], got shape {tuple(values.shape)}.")
    v = 2 * values.double().cpu() - 1
    h_1, h_2 = 3**0.5 * v.mean(), 5**0.5 / 2 * (3 * v**2 - 1).mean()
    p_moments = float(stats.chi2.sf(len(v) * float(h_1**2 + h_2**2), 2))
    p_shape = float(stats.kstest((v.numpy() + 1) / 2, "uniform").pvalue)
    return RankTest(
        p_value=min(1.0, 2 * min(p_shape, p_moments)),
        p_shape=p_shape,
        p_moments=p_moments,
        shift=float(v.mean()),
        spread=float(3 * (v**2).mean()),
        cases=len(v),
    )


def coverage(
    truth: Tensor, samples: Tensor, *, level: float = 0.9, weights: Tensor | None = None, known: Tensor | None = None
) -> Coverage:
    r"""Return how often the central interval of the samples holds the truth, over all values of all cases.

    An interval between order statistics cannot hold exactly ``level`` in expectation: that from the 5 % to the 95 % quantile
    of :math:`M` samples, as ``Posterior.quantile`` gives them, holds :math:`0.9\, (M - 1) / (M + 1)` up to the curvature
    of the density (88.2 % for 100 samples, 67.5 % for 7). So the ends are tossed between neighbouring samples such that
    the expectation is ``level`` for every :math:`M` and every law, and averaged over the tosses: a truth whose rank lies
    uniformly in an interval (:func:`rank_bounds`) counts by the share of it within :math:`\tfrac12 \pm \tfrac12` ``level``.

    Values within a case are correlated, so the error is that of the mean over cases, but not below the one which
    independent values would have.

    Args:
        truth: ``(n, *event)``, one independent case a row.
        samples: ``(M, n, *event)``.
        level: Share of the samples in the interval, in (0, 1).
        weights: ``(M, n)``, summing to 1 over the samples. Default: equal.
        known: Boolean, shaped like ``truth``: what is known exactly and left out, and so are cases of nothing else. Default:
            nothing.
    """
    if not 0 < level < 1:
        raise ValueError(f"coverage: level must lie in (0, 1), got {level}.")
    low, high = rank_bounds(truth, samples, weights=weights)
    start, stop = (1 - level) / 2, (1 + level) / 2
    inside = (high.clamp(max=stop) - low.clamp(min=start)).clamp(min=0) / (high - low)
    unknown = (torch.ones_like(inside) if known is None else (~known).to(inside)).reshape(len(inside), -1)
    counts = unknown.sum(1)
    if not counts.any():
        raise ValueError("coverage: all values are known exactly, there is nothing to cover.")
    cases = ((inside.reshape(len(inside), -1) * unknown).sum(1) / counts)[counts > 0]
    least = level * (1 - level) / float(counts.max())
    spread = float(cases.var()) if len(cases) > 1 else level * (1 - level)  # A single case: as if its values were one.
    error = (max(spread, least) / len(cases)) ** 0.5
    observed = float(cases.mean())
    p_value = 2 * float(stats.t.sf(abs(observed - level) / error, max(len(cases) - 1, 1)))
    return Coverage(level, observed, error, p_value, len(cases))


def merge_repeats(samples: Tensor, weights: Tensor) -> Tensor:
    """Return the weights with those of repeated samples moved to the first of them, ``(M, n)``.

    Particle methods return the same sample several times. Equal copies are no independent draws: counted as such they would
    make any spread look trustworthy. As one sample of greater weight they lower the effective sample size instead.

    Args:
        samples: ``(M, n, *event)``.
        weights: ``(M, n)``.
    """
    count = len(samples)
    merged = torch.zeros_like(weights)
    for b in range(samples.shape[1]):
        _, group = torch.unique(samples[:, b].flatten(1), dim=0, return_inverse=True)
        places = torch.arange(count, device=group.device)
        first = torch.full_like(group, count).scatter_reduce(0, group, places, "amin")
        merged[:, b].scatter_add_(0, first[group], weights[:, b])
    return merged
