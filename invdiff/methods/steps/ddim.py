"""The first-order step: DDIM, and DDPM at the other end of the same family."""

from __future__ import annotations

import math

from torch import Tensor

from invdiff.methods.guidance.base import PosteriorMean
from invdiff.schedules import Schedule

__all__ = ["DDIM"]


class DDIM:
    r"""Step with a share of fresh noise: :math:`\eta = 0` is DDIM, :math:`\eta = 1` DDPM's ancestral sampling.

    .. math:: x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - \eta^2 \tilde\sigma^2}\, \hat\varepsilon + \eta \tilde\sigma z,
        \qquad \tilde\sigma^2 = \sigma_s^2 \Big(1 - \frac{\alpha_t^2 \sigma_s^2}{\alpha_s^2 \sigma_t^2}\Big)

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

    def __call__(self, mean: PosteriorMean, schedule: Schedule, x_t: Tensor, t: Tensor, s: Tensor, noise: Tensor) -> Tensor:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (map(float, schedule(time)) for time in (t, s))
        x0_hat = mean(x_t, t)
        eps_hat = (x_t - alpha_t * x0_hat) / sigma_t
        fresh = self.eta**2 * (1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2)  # share of fresh noise
        return alpha_s * x0_hat + sigma_s * (math.sqrt(1 - fresh) * eps_hat + math.sqrt(fresh) * noise)

    def __repr__(self) -> str:
        return f"DDIM(eta={self.eta:g})"
