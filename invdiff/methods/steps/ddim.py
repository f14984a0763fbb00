"""The first-order step: DDIM, and DDPM at the other end of the family."""

from __future__ import annotations

import math

from torch import Tensor

from invdiff.methods.ddpm_kernel import ddpm_kernel
from invdiff.methods.denoised import Denoised, PosteriorMean
from invdiff.methods.steps.rule import StepRule

__all__ = ["DDIM"]


class DDIM(StepRule):
    r"""First-order step with a share of fresh noise: :math:`\eta = 0` is DDIM, :math:`\eta = 1` DDPM's ancestral sampling.

    .. math:: x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - \eta^2 \tilde\sigma^2}\, \hat\varepsilon + \eta \tilde\sigma z,
        \qquad \tilde\sigma^2 = \sigma_s^2 \Big(1 - \frac{\alpha_t^2 \sigma_s^2}{\alpha_s^2 \sigma_t^2}\Big)

    :math:`\tilde\sigma^2` is the variance of DDPM's kernel (:func:`invdiff.methods.ddpm_kernel.ddpm_kernel`).

    Args:
        eta: Stochasticity :math:`\eta` in [0, 1].

    Cost: one evaluation of the posterior mean.

    References:
        Song et al., Denoising Diffusion Implicit Models, 2021, https://arxiv.org/abs/2010.02502, eq. 12 and 16
    """

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"DDIM: eta must lie in [0, 1], got {eta}.")
        self.eta = eta

    def __call__(self, mean: PosteriorMean, at: Denoised, s: Tensor, noise: Tensor) -> Tensor:
        alpha_s, sigma_s = at.levels(s)
        variance = self.eta**2 * ddpm_kernel((at.alpha_t, at.sigma_t), (alpha_s, sigma_s)).variance
        x0_hat = mean(at)
        # Without eps_hat = (x_t - alpha_t x0_hat) / sigma_t itself: one pass over the image for each of the three terms.
        share = math.sqrt(sigma_s**2 - variance) / at.sigma_t
        x_s = ((alpha_s - share * at.alpha_t) * x0_hat).add_(at.x_t, alpha=share)
        return x_s.add_(noise, alpha=math.sqrt(variance)) if variance else x_s

    def __repr__(self) -> str:
        return f"DDIM(eta={self.eta:g})"
