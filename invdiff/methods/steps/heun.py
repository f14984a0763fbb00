"""The second-order step: Heun's method."""

from __future__ import annotations

from torch import Tensor

from invdiff.methods.denoised import Denoised, PosteriorMean
from invdiff.methods.steps.rule import StepRule

__all__ = ["Heun"]


class Heun(StepRule):
    r"""Heun's method for the probability-flow ODE of :math:`z = x / \alpha` in the noise-to-signal ratio :math:`\varsigma`.

    .. math:: \frac{dz}{d\varsigma} = \frac{z - \hat x_0(z, \varsigma)}{\varsigma}

    Deterministic: the only randomness of a sample is its initial state. The step to zero noise is first order, because the
    slope is not defined there.

    Cost: two evaluations of the posterior mean, one in the last step.

    References:
        Karras et al., 2022, https://arxiv.org/abs/2206.00364, algorithm 1
    """

    def __call__(self, mean: PosteriorMean, at: Denoised, s: Tensor, noise: Tensor) -> Tensor:
        alpha_s, sigma_s = at.levels(s)
        ratio_t, ratio_s = at.ratio, sigma_s / alpha_s
        z_t = at.x_t / at.alpha_t
        slope = (z_t - mean(at)) / ratio_t
        z_s = z_t + (ratio_s - ratio_t) * slope
        if ratio_s > 0:
            slope_s = (z_s - mean(at.elsewhere(alpha_s * z_s, s))) / ratio_s
            z_s = z_t + (ratio_s - ratio_t) * (slope + slope_s) / 2
        return alpha_s * z_s

    def __repr__(self) -> str:
        return "Heun()"
