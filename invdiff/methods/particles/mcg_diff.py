"""MCG-diff: particles guided by what each measured coordinate should be at every level of noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.linalg import norm
from invdiff.methods.particles.loop import ParticleMethod
from invdiff.methods.spectral import SpectralData
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["MCGdiff"]


class MCGdiff(ParticleMethod):
    r"""Monte Carlo guided diffusion, by the singular value decomposition of a linear operator.

    In the spectral coordinates of :math:`z = V^\top x / \alpha`, a measured coordinate has the observation
    :math:`\bar y_i = (U^\top y)_i / s_i` with noise of variance :math:`\kappa_i = \sigma_y^2 / s_i^2`. At every level a
    potential says how near to it the coordinate should be, and the last one is the likelihood:

    .. math:: g_t(z) = \prod_i \mathcal{N}(\bar y_i;\, z_i,\, v_{t,i}), \qquad v_{t,i} = \varsigma_t^2 + \kappa_i

    With DDPM's kernel :math:`\mathcal{N}(m, c^2 I)`, and :math:`K_i = c^2 / (c^2 + v_{s,i})`, particles move and are
    weighted by

    .. math:: z_{s,i} \sim \mathcal{N}\big(m_i + K_i (\bar y_i - m_i),\, K_i v_{s,i}\big), \qquad
        \Delta \log w = \sum_i \log \mathcal{N}(\bar y_i;\, m_i,\, c^2 + v_{s,i}) - \log g_t(z_t)

    while coordinates that are not measured move by the kernel. No gradients. It samples the posterior of the *discretised*
    prior as the number of particles grows; how many that takes grows with the number of measured coordinates.

    Args:
        score: The prior.
        op: A linear operator whose singular value decomposition is known; ``sigma_y`` may be 0.
        y: Measurement, ``(B, *op.out_shape)``, one row per particle.
        particles: Particles in a group.
        weighted: Whether to hand out the last weights instead of resampling to equal ones.
        kappa: :math:`\kappa_i > 0` of exact data, in the units of ``x`` squared. The last state meets them all the same.

    Cost: one denoiser evaluation a step.

    References:
        Cardoso et al., Monte Carlo guided Diffusion for Bayesian linear inverse problems, 2024,
        https://arxiv.org/abs/2308.07983, algorithm 1. Departures: any schedule; resampling after the move, and only where the
        effective sample size has fallen below half; and the same algorithm serves noisy data, whose :math:`\kappa_i` is known.
        The paper's second algorithm stops guiding a coordinate where :math:`\varsigma_t` falls below
        :math:`\sigma_y / s_i`, and divides by a potential of the small variance :math:`\kappa` there: such weights have no
        finite variance.
    """

    needs = ("linear", "svd")
    one_operator = True

    def __init__(
        self,
        score: ScoreModel,
        op: Operator,
        y: Tensor,
        *,
        particles: int = 64,
        weighted: bool = False,
        kappa: float = 1e-4,
    ) -> None:
        super().__init__(score, op, y, particles=particles, weighted=weighted)
        if not kappa > 0:
            raise ValueError(f"MCG-diff: kappa must be positive, got {kappa}.")
        self.data = SpectralData(op, y)
        self.kappa = self.data.noise**2 if op.sigma_y > 0 else torch.full_like(self.data.noise, kappa)
        # log p(y) - log p(y_bar): the change of units, and what of y is nothing but noise.
        singular = self.data.svd.singular[self.data.measured].double()
        self.log_outside = -singular.log().sum()
        excess = op.dof - len(singular)
        if op.sigma_y > 0 and excess > 0:
            rest = norm(y).double() ** 2 - norm(self.data.svd.measured(y)).double() ** 2
            self.log_outside = self.log_outside - 0.5 * (rest / op.sigma_y**2 + excess * math.log(2 * math.pi * op.sigma_y**2))

    def start(self, t: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        alpha_t = float(self.score.schedule(t)[0])
        variance = float(self.score.schedule.ratio(t)) ** 2
        z_t, log_w = self._move(torch.zeros_like(self.data.y_bar), variance, variance + self.kappa, draw)
        return alpha_t * self.data.svd.synthesize(z_t), log_w + self.log_outside

    def step(self, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        alpha_t, alpha_s = (float(self.score.schedule(time)[0]) for time in (t, s))
        ratio_t, ratio_s = (float(self.score.schedule.ratio(time)) for time in (t, s))
        z_t, z_hat = self.data.svd.analyze(x_t / alpha_t), self.data.svd.analyze(self.score.denoise(x_t, t))
        kept = (ratio_s / ratio_t) ** 2
        m, variance = kept * z_t + (1 - kept) * z_hat, ratio_s**2 * (1 - kept)
        z_s, log_w = self._move(m, variance, ratio_s**2 + self.kappa, draw)
        log_w = log_w - self._log_normal(z_t, ratio_t**2 + self.kappa)
        if ratio_s == 0 and self.op.sigma_y == 0:
            z_s = torch.where(self.data.measured, self.data.y_bar, z_s)
        return alpha_s * self.data.svd.synthesize(z_s), log_w

    def _move(self, m: Tensor, variance: float, v: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        r"""Draw from :math:`\mathcal{N}(m, c^2 I)\, g` and return the log of its mass, ``(B,)``."""
        gain = torch.where(self.data.measured, variance / (variance + v), 0)
        spread = torch.where(self.data.measured, gain * v, variance).sqrt()
        return m + gain * (self.data.y_bar - m) + spread * draw(m.shape[1:]), self._log_normal(m, variance + v)

    def _log_normal(self, mean: Tensor, variance: Tensor) -> Tensor:
        r"""Return :math:`\log \mathcal{N}(\bar y; m, v)` summed over the measured coordinates, float64, ``(B,)``."""
        v = torch.where(self.data.measured, variance, 1).double()
        each = -0.5 * ((self.data.y_bar - mean).double() ** 2 / v + (2 * math.pi * v).log())
        return torch.where(self.data.measured, each, 0).flatten(1).sum(1)
