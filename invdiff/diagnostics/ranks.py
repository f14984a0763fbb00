"""Ranks of the truth among posterior samples, uniform if the samples are exact, and the coverage of intervals."""

from __future__ import annotations

from dataclasses import dataclass

import scipy
import torch
from torch import Tensor

from invdiff.random import generator

__all__ = ["Coverage", "RankTest", "coverage", "merge_repeats", "rank_bounds", "rank_test", "ranks"]


@dataclass(frozen=True)
class RankTest:
    r"""Test of the ranks of independent cases for uniformity.

    Attributes:
        p_value: Combined p-value: twice the smaller of the next two, at most 1.
        p_shape: p-value of the exact Kolmogorov-Smirnov test, which detects any departure, such as large errors of the spread.
        p_moments: p-value of Neyman's smooth test of order two, which detects shift and spread with far fewer cases.
        shift: :math:`2 \bar u - 1` in [-1, 1]: negative if the truth tends to lie below the samples, positive if above.
        spread: Variance of the ranks about one half over its value for exact samples: above 1 if the samples are too narrow (or
            shifted), below 1 if they are too wide; at most 3.
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
    """Coverage: how often intervals contain the truth.

    Attributes:
        level: Nominal coverage, the expectation for exact samples with any number of samples.
        observed: Observed coverage.
        error: Standard error of ``observed`` over independent cases.
        p_value: Two-sided p-value for coverage ``level``.
        cases: Number of cases.
    """

    level: float
    observed: float
    error: float
    p_value: float
    cases: int


def rank_bounds(truth: Tensor, samples: Tensor, *, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Return the interval in [0, 1] from which the rank of the truth is drawn at random.

    With :math:`W_<` and :math:`W_=` the total weights of the samples below the truth and equal to it, and :math:`E` the
    effective sample size (the number of samples, for equal weights), and the truth counted as one more sample, the interval is

    .. math:: \Big[\frac{E\, W_<}{E + 1},\; \frac{E\, (W_< + W_=) + 1}{E + 1}\Big]

    A uniform draw from it is uniform on [0, 1] if truth and samples are exchangeable: exactly for equal weights, even with
    ties, and in the limit of many samples for unequal weights.

    Args:
        truth: True values, ``(n, *event)``.
        samples: Samples, ``(M, n, *event)``.
        weights: Weights ``(M, n)``, summing to 1 over the samples. Default: equal weights.
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
    r"""Return the normalized rank of each truth among its samples, float64 in [0, 1], shaped like ``truth``.

    For equal weights without ties it is :math:`(r + U) / (M + 1)` with :math:`r \in 0 \dots M` the number of samples below and
    :math:`U` uniform; ties are broken at random. Ranks are uniform if the samples are exact posterior draws and the truth is a
    draw of the prior, for any statistic, including statistics that depend on the data. Ranks of statistics that do not (pixels,
    projections) are uniform for samples of the prior too, and cannot detect a sampler that ignores ``y``.

    Args:
        truth: The statistic of the truth, ``(n, *event)``.
        samples: The statistic of the samples, ``(M, n, *event)``.
        seed: Random seed of :math:`U`; the values for case ``b`` depend only on ``(seed, b)``.
        weights: Weights ``(M, n)``, summing to 1 over the samples. Default: equal weights.

    References:
        Talts et al., Validating Bayesian Inference Algorithms with Simulation-Based Calibration, 2018,
        https://arxiv.org/abs/1804.06788; Modrák et al., Simulation-Based Calibration Checking for Bayesian Computation: The
        Choice of Test Quantities Shapes Sensitivity, 2023, https://arxiv.org/abs/2211.02383. Departure: ranks are shares
        instead of integers, to admit weighted samples.
    """
    low, high = rank_bounds(truth, samples, weights=weights)
    tosses = [
        torch.rand(truth.shape[1:], generator=generator(seed, "diagnose", b, 0), dtype=low.dtype) for b in range(len(low))
    ]
    return torch.lerp(low, high, torch.stack(tosses).to(low.device))


def rank_test(values: Tensor) -> RankTest:
    r"""Test that ranks of independent cases are uniform on [0, 1].

    The smooth test of order two compares :math:`n (h_1^2 + h_2^2)` with :math:`\chi^2_2`, with :math:`h_1, h_2` the means of
    the normalized Legendre polynomials :math:`\sqrt 3\, v` and :math:`\tfrac{\sqrt 5}{2} (3 v^2 - 1)`, :math:`v = 2 u - 1`.

    Args:
        values: Ranks ``(n,)`` of one scalar statistic, from :func:`ranks`. The p-values are valid from 10 cases on.

    References:
        Neyman, "Smooth" test for goodness of fit, 1937, https://doi.org/10.1080/03461238.1937.10404821
    """
    if values.ndim != 1 or not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"rank_test: expected ranks of shape (n,) in [0, 1], got shape {tuple(values.shape)}.")
    v = 2 * values.double().cpu() - 1
    h_1, h_2 = 3**0.5 * v.mean(), 5**0.5 / 2 * (3 * v**2 - 1).mean()
    p_moments = float(scipy.stats.chi2.sf(len(v) * float(h_1**2 + h_2**2), 2))
    p_shape = float(scipy.stats.kstest((v.numpy() + 1) / 2, "uniform").pvalue)
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
    r"""Return how often the central interval of the samples contains the truth, over all values of all cases.

    The coverage of an interval between order statistics is not exactly ``level`` in expectation: the interval from the 5 % to
    the 95 % quantile of :math:`M` samples, as computed by ``Posterior.quantile``, covers :math:`0.9\, (M - 1) / (M + 1)` up to
    the curvature of the density (88.2 % for 100 samples, 67.5 % for 7). Therefore the ends are randomized between neighboring
    samples such that the expectation is ``level`` for every :math:`M` and every distribution, and the coverage is averaged over
    this randomization: a truth whose rank is uniform in an interval (:func:`rank_bounds`) counts by the share of that interval
    within :math:`\tfrac12 \pm \tfrac12` ``level``.

    Values within a case are correlated, so ``error`` is the standard error of the mean over cases, but at least that of
    independent values.

    Args:
        truth: True values ``(n, *event)``, one independent case per row.
        samples: Samples, ``(M, n, *event)``.
        level: Nominal coverage, in (0, 1).
        weights: Weights ``(M, n)``, summing to 1 over the samples. Default: equal weights.
        known: Boolean, shaped like ``truth``: true for exactly known values, which are left out, as are cases without any other
            values. Default: none.
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
    spread = float(cases.var()) if len(cases) > 1 else level * (1 - level)  # A single case: as if it had a single value.
    error = (max(spread, least) / len(cases)) ** 0.5
    observed = float(cases.mean())
    p_value = 2 * float(scipy.stats.t.sf(abs(observed - level) / error, max(len(cases) - 1, 1)))
    return Coverage(level, observed, error, p_value, len(cases))


def merge_repeats(samples: Tensor, weights: Tensor) -> Tensor:
    """Return the weights ``(M, n)`` with the weight of repeated samples moved to their first occurrence.

    Particle methods may return the same sample several times. Copies are not independent draws: counted as such, they would
    make any spread look reliable. Merged into one sample of larger weight, they lower the effective sample size instead.

    Args:
        samples: Samples, ``(M, n, *event)``.
        weights: Weights, ``(M, n)``.
    """
    count = len(samples)
    merged = torch.zeros_like(weights)
    for b in range(samples.shape[1]):
        _, group = torch.unique(samples[:, b].flatten(1), dim=0, return_inverse=True)
        places = torch.arange(count, device=group.device)
        first = torch.full_like(group, count).scatter_reduce(0, group, places, "amin")
        merged[:, b].scatter_add_(0, first[group], weights[:, b])
    return merged
