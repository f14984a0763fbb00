"""Kernel Stein discrepancy: test whether samples follow a density given only by its score. No truth is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from invdiff.diagnostics.ranks import merge_repeats
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import generator

__all__ = ["KernelStein", "kernel_stein", "posterior_score"]

Score = Callable[[Tensor], Tensor]
EXPONENT = -0.5  # of the inverse multiquadric; any in (-1, 0) detects samples that drift to infinity


@dataclass(frozen=True, eq=False)
class KernelStein:
    r"""Squared kernel Stein discrepancies, one per item.

    Attributes:
        u: U-statistic, ``(B,)``: unbiased, about 0 for exact samples.
        v: V-statistic, ``(B,)``: the squared discrepancy of the samples themselves, never negative.
        p_value: p-value for exact samples, ``(B,)``, from the multiplier bootstrap of ``u``.
        bandwidth: Bandwidth of the kernel, ``(B,)``.
    """

    u: Tensor
    v: Tensor
    p_value: Tensor
    bandwidth: Tensor


def posterior_score(score: ScoreModel, op: Operator, y: Tensor, *, ratio: float) -> Score:
    r"""Return the score of a posterior, :math:`x \mapsto \nabla \log p_\varsigma(x) + A'(x)^\top (y - A(x)) / \sigma_y^2`.

    :math:`p_\varsigma` is the prior with Gaussian noise of standard deviation :math:`\varsigma` added. The denoiser gives its
    score, :math:`(E[x_0 | x] - x) / \varsigma^2`. Exact samples of the posterior itself differ from this smoothed one by about
    :math:`\varsigma^2` over the variance of the posterior along its narrowest direction: keep ``ratio`` well below the standard
    deviation there. Networks are least accurate at small ratios, where their error is divided by :math:`\varsigma^2`.

    Args:
        score: The prior.
        op: The measurement operator, linear or nonlinear, with noise above 0.
        y: Measurements, ``(B, *op.out_shape)``.
        ratio: :math:`\varsigma > 0`, the noise-to-signal ratio at which the prior is evaluated.

    Returns:
        A function that maps ``(B, *event)`` to scores of the same shape; row ``b`` belongs to item ``b``.
    """
    if not ratio > 0 or op.sigma_y == 0:
        raise ValueError(f"posterior_score: expected ratio > 0 and noise above 0, got ratio {ratio} and noise {op.sigma_y}.")
    t = score.schedule.time(ratio)

    def of(x: Tensor) -> Tensor:
        with torch.no_grad():
            alpha_t, _ = score.levels(t, x)
            prior = alpha_t * score.score(alpha_t * x, t)  # by the chain rule: x_t = alpha_t x
            measured, linear = op.linearized(x)
            return prior + linear.adjoint(y - measured) / op.sigma_y**2

    return of


def kernel_stein(
    samples: Tensor,
    score: Score,
    *,
    seed: int,
    weights: Tensor | None = None,
    bandwidth: float | None = None,
    bootstraps: int = 1000,
    flip: float = 0.5,
) -> KernelStein:
    r"""Return the squared kernel Stein discrepancy of samples from a density :math:`p` with known score :math:`s`.

    .. math:: \mathrm{KSD}^2 = \mathbb{E}\, h(x, x'), \qquad h = s^\top s' k + s^\top \nabla_{x'} k + s'^\top \nabla_x k
        + \mathrm{tr}\, \nabla_x \nabla_{x'} k, \qquad k = (c^2 + \|x - x'\|^2)^{-1/2}

    The variables are whitened first by the covariance of the samples, or divided by their standard deviations if there are
    fewer than two samples per dimension. Without this step the narrowest directions dominate, and a standard deviation that is
    off by a half is not detected. The scores are transformed by the chain rule. Under :math:`p` every :math:`h(x, \cdot)` has
    mean 0, and the p-value compares the statistic with :math:`\sum_{i \ne j} w_i \epsilon_i w_j \epsilon_j h_{ij}` for random
    signs :math:`\epsilon`.

    The test detects a wrong mean, standard deviation or shape of a mode, and too small standard deviations sooner than too
    large ones: in dimension 12, a factor of 0.7 takes 150 samples and a factor of 1.5 takes 300. It cannot detect modes that
    are missing or have a wrong weight, because the score does not depend on them, and it has little power in high dimension
    (hundreds, for hundreds of samples).

    Args:
        samples: Samples ``(M, B, *event)``, at least 2 per item. Repeated samples of particle methods are counted as one.
        score: Score function :math:`s` from ``(B, *event)`` to the same shape, such as :func:`posterior_score`. Called once for
            each of the :math:`M` samples.
        seed: Random seed of the signs.
        weights: Weights ``(M, B)``, summing to 1 over the samples. Default: equal weights.
        bandwidth: :math:`c`, in units of standard deviations. Default: the median distance between samples, per item.
        bootstraps: Number of bootstrap resamplings; the smallest p-value is ``1 / (bootstraps + 1)``.
        flip: Probability that a sign differs from the previous one: 0.5 for independent samples, smaller for chains, about the
            inverse of their correlation time.

    Cost: one score per sample, and :math:`M^2` inner products.

    References:
        Gorham & Mackey, Measuring Sample Quality with Kernels, 2017, https://arxiv.org/abs/1703.01717; Liu, Lee & Jordan, A
        Kernelized Stein Discrepancy for Goodness-of-fit Tests, 2016, https://arxiv.org/abs/1602.03253; Chwialkowski,
        Strathmann & Gretton, A Kernel Test of Goodness of Fit, 2016, https://arxiv.org/abs/1602.02964 (the signs)
    """
    count, items = samples.shape[:2]
    if count < 2 or not samples.isfinite().all():
        raise ValueError(f"kernel_stein: expected at least 2 finite samples (M, B, *event), got {tuple(samples.shape)}.")
    if not 0 < flip <= 0.5 or bootstraps < 1 or (bandwidth is not None and not bandwidth > 0):
        raise ValueError(
            "kernel_stein: expected 0 < flip <= 0.5, bootstraps >= 1 and bandwidth > 0, "
            f"got {flip}, {bootstraps} and {bandwidth}."
        )
    if weights is None:
        weights = samples.new_full((count, items), 1 / count)
    weights = merge_repeats(samples, weights).double()
    if not ((weights**2).sum(0) < 1 - 1e-9).all():
        raise ValueError("kernel_stein: all samples of an item are the same, or one has all the weight; expected two or more.")
    scores = torch.stack([score(x) for x in samples])
    results = []
    for b in range(items):
        x, s, w = samples[:, b].flatten(1).double(), scores[:, b].flatten(1).double(), weights[:, b]
        x, s = _whiten(x, s, w)
        distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        kept = w > 0
        c = distance[kept][:, kept].triu(1).flatten() if bandwidth is None else distance.new_tensor([bandwidth])
        c = c[c > 0].median()
        h = stein_kernel(x, s, distance, c) * w * w[:, None]
        v, own = h.sum(), h.diagonal().sum()
        signs = sticky_signs(bootstraps, count, flip, generator(seed, "diagnose", b, 3)).to(h)
        resampled = ((signs @ h) * signs).sum(1) - own
        p_value = (1 + (resampled >= v - own).sum()) / (1 + bootstraps)
        results.append(torch.stack([(v - own) / (1 - (w**2).sum()), v, p_value, c]))
    u, v, p_value, c = torch.stack(results, 1).to(samples)
    return KernelStein(u, v, p_value, c)


def _whiten(x: Tensor, s: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return the samples ``(M, d)``, centered and whitened by a root of their covariance, and the scores multiplied by it."""
    mean = w @ x
    centred = x - mean
    variance = w @ centred**2
    std = torch.where(variance > 0, variance, 1).sqrt()
    if 2 * x.shape[1] <= int((w > 0).sum()):
        scaled = centred / std
        root, failed = torch.linalg.cholesky_ex((scaled * w[:, None]).mT @ scaled)
        if not failed:
            return torch.linalg.solve_triangular(root, scaled.mT, upper=False).mT, s * std @ root
    return centred / std, s * std


def stein_kernel(x: Tensor, s: Tensor, distance: Tensor, c: Tensor) -> Tensor:
    r"""Return :math:`h(x_i, x_j)`, ``(M, M)``.

    With :math:`u = c^2 + \|r\|^2`, :math:`r = x - x'` and :math:`k = u^\beta`: :math:`\nabla_x k = 2 \beta u^{\beta - 1} r
    = -\nabla_{x'} k`, and the trace is :math:`-2 \beta d u^{\beta - 1} - 4 \beta (\beta - 1) u^{\beta - 2} \|r\|^2`.

    Args:
        x: Samples, ``(M, d)``.
        s: Scores at the samples, ``(M, d)``.
        distance: Distances :math:`\|x_i - x_j\|`, ``(M, M)``.
        c: Bandwidth.
    """
    beta, u = EXPONENT, c**2 + distance**2
    along = s @ x.mT  # s_i . x_j
    drift = along.diagonal()[:, None] - along  # s_i . (x_i - x_j)
    gradient = 2 * beta * u ** (beta - 1)
    trace = -gradient * x.shape[1] - 4 * beta * (beta - 1) * u ** (beta - 2) * distance**2
    return s @ s.mT * u**beta - gradient * (drift + drift.mT) + trace


def sticky_signs(rows: int, count: int, flip: float, g: torch.Generator) -> Tensor:
    """Return signs ``(rows, count)``; along a row, a sign differs from the previous one with probability ``flip``."""
    flips = (torch.rand(rows, count, generator=g, dtype=torch.float64) < flip).double()
    return (1 - 2 * flips).cumprod(1)
