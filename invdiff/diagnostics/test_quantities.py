"""Test quantities: scalar functions of (x, y) with the same distribution for the truth and for exact posterior samples."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from invdiff.linalg import dot, norm
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import generator

__all__ = ["RATIOS", "HasLogProb", "log_posterior", "log_prior", "misfit", "projections"]

RATIOS = (0.05, 0.15, 0.5)  # noise-to-signal ratios of the estimated prior density; images span [-1, 1]


@runtime_checkable
class HasLogProb(Protocol):
    """A prior with a known density."""

    def log_prob(self, x: Tensor, /) -> Tensor: ...


def misfit(op: Operator, x: Tensor, y: Tensor) -> Tensor:
    r"""Return :math:`\|y - A(x)\|^2` of every item, shape ``(B,)``."""
    return norm(y - op(x)) ** 2


def log_posterior(
    score: ScoreModel, op: Operator, x: Tensor, y: Tensor, *, ratios: Sequence[float] = RATIOS, seed: int = 0
) -> Tensor:
    r"""Return :math:`\log p(x) - \|y - A(x)\|^2 / 2 \sigma_y^2` of every item up to a constant, shape ``(B,)``.

    Its ranks detect more than those of any other quantity: too much detail, too little detail, and data that are not fitted.
    The prior term is :func:`log_prior`, which is exact if the density is known.

    Raises:
        ValueError: If the noise of the operator is 0: the posterior then has no density.
    """
    if op.sigma_y == 0:
        raise ValueError(
            "log_posterior: the noise of the operator is 0 and the posterior has no density. Use an operator with noise."
        )
    return log_prior(score, x, ratios=ratios, seed=seed) - misfit(op, x, y) / (2 * op.sigma_y**2)


def log_prior(score: ScoreModel, x: Tensor, *, ratios: Sequence[float] = RATIOS, seed: int = 0) -> Tensor:
    r"""Return :math:`\log p(x)` of every item, shape ``(B,)``: from ``log_prob`` if the prior has it, else an estimate.

    The estimate is based on the denoising error of the prior at a few noise-to-signal ratios :math:`\varsigma`,

    .. math:: \log p(x) = \text{const} - \int \frac{\mathbb{E}_\varepsilon
        \|x - E[x_0 | x + \varsigma \varepsilon]\|^2}{\varsigma^2}\, d \log \varsigma,

    computed with the trapezoidal rule over ``ratios`` and one pair :math:`\pm \varepsilon` per ratio, the same for every item.
    The estimate is therefore a fixed function of :math:`x`: its ranks are uniform for exact samples, however coarse it is. It
    is insensitive to what it leaves out, such as details finer than the smallest ratio.

    Args:
        score: The prior.
        x: Items, ``(B, *event)``.
        ratios: Noise-to-signal ratios, positive and increasing, at least two.
        seed: Random seed of :math:`\varepsilon`.

    Cost: two denoiser evaluations per ratio.

    References:
        Kong et al., Information-Theoretic Diffusion, 2023, https://arxiv.org/abs/2302.03792, with the signal-to-noise
        ratio :math:`\varsigma^{-2}`
    """
    if isinstance(score, HasLogProb):
        return score.log_prob(x)
    if len(ratios) < 2 or any(not 0 < a < b for a, b in itertools.pairwise(ratios)):
        raise ValueError(f"log_prior: ratios must be positive, increasing and at least two, got {tuple(ratios)}.")
    errors = []
    for place, ratio in enumerate(ratios):
        t = score.schedule.time(ratio)
        alpha_t, sigma_t = score.levels(t, x)
        g = generator(seed, "diagnose", place, 1)
        noise = torch.randn(x.shape[1:], generator=g, dtype=torch.float64).to(x)
        pair = [norm(x - score.denoise(alpha_t * x + sign * sigma_t * noise, t)) ** 2 for sign in (1, -1)]
        errors.append((pair[0] + pair[1]) / (2 * ratio**2))
    return -torch.trapezoid(torch.stack(errors, -1), torch.tensor(ratios, dtype=x.dtype, device=x.device).log())


def projections(x: Tensor, *, count: int, seed: int) -> Tensor:
    r"""Return the inner products of every item with ``count`` fixed random vectors, ``(B, count)``.

    They do not depend on the data, so samples of the prior pass the test. They detect a wrong mean and a wrong standard
    deviation.
    """
    draws = [torch.randn(x.shape[1:], generator=generator(seed, "diagnose", k, 2), dtype=torch.float64) for k in range(count)]
    return torch.stack([dot(x, v.to(x).expand_as(x)) for v in draws], -1)
