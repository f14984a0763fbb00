"""MCG-diff: Monte Carlo guided diffusion, with a potential on each measured coordinate at every noise level."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.linalg import norm
from invdiff.methods.ddpm_kernel import ddpm_kernel
from invdiff.methods.denoised import Denoised
from invdiff.methods.method import Method, Preset
from invdiff.methods.particles.loop import ParticleMethod
from invdiff.methods.spectral import SpectralData
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["MCGDiff"]


class MCGDiff(ParticleMethod[Denoised]):
    r"""Monte Carlo guided diffusion, in the SVD basis of a linear operator.

    In the spectral coordinates :math:`z = V^\top x / \alpha`, a measured coordinate has the observation
    :math:`\bar y_i = (U^\top y)_i / s_i` with noise of variance :math:`\kappa_i = \sigma_y^2 / s_i^2`. At every level a
    potential draws the coordinate toward it, and the last potential is the likelihood:

    .. math:: g_t(z) = \prod_i \mathcal{N}(\bar y_i;\, z_i,\, v_{t,i}), \qquad v_{t,i} = \varsigma_t^2 + \kappa_i

    With DDPM's kernel :math:`\mathcal{N}(m, c^2 I)`, and :math:`K_i = c^2 / (c^2 + v_{s,i})`, particles move and are
    weighted by

    .. math:: z_{s,i} \sim \mathcal{N}\big(m_i + K_i (\bar y_i - m_i),\, K_i v_{s,i}\big), \qquad
        \Delta \log w = \sum_i \log \mathcal{N}(\bar y_i;\, m_i,\, c^2 + v_{s,i}) - \log g_t(z_t)

    while unmeasured coordinates move by the kernel. No gradients. As the number of particles grows, it samples the posterior of
    the *discretized* prior; the number of particles needed grows with the number of measured coordinates.

    Args:
        score: The prior.
        op: A linear operator with ``svd``; ``op.sigma_y`` may be 0.
        y: Measurement, ``(B, *op.out_shape)``, one row per particle.
        particles: Particles per group.
        weighted: Whether to return the last weights instead of resampling to equal ones.
        kappa: :math:`\kappa_i > 0` assumed for exact data, in the squared units of ``x``. The last state fits them exactly.

    Cost: one denoiser evaluation per step.

    References:
        Cardoso et al., Monte Carlo guided Diffusion for Bayesian linear inverse problems, 2024,
        https://arxiv.org/abs/2308.07983, algorithm 1. Departures: any schedule; resampling after the move, and only if the
        effective sample size is below half; and the same algorithm is used for noisy data, where :math:`\kappa_i` is known.
        The paper's second algorithm stops guiding a coordinate where :math:`\varsigma_t` falls below
        :math:`\sigma_y / s_i`, and there divides by a potential with the small variance :math:`\kappa`: the variance of
        such weights is infinite.
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
        self.kappa = kappa
        self.data = SpectralData(op, y)
        self.variances = self.data.noise**2 if op.sigma_y > 0 else torch.full_like(self.data.noise, kappa)
        # log p(y) - log p(y_bar): the change of variables, and the density of the components of y that are pure noise.
        singular = self.data.svd.singular[self.data.measured].double()
        self.log_outside = -singular.log().sum()
        excess = op.dof - len(singular)
        if op.sigma_y > 0 and excess > 0:
            rest = norm(y).double() ** 2 - norm(self.data.svd.measured(y)).double() ** 2
            self.log_outside = self.log_outside - 0.5 * (rest / op.sigma_y**2 + excess * math.log(2 * math.pi * op.sigma_y**2))

    def start(self, t: Tensor, draw: Draw) -> tuple[Denoised, Tensor]:
        alpha_t, variance = float(self.score.schedule(t)[0]), float(self.score.schedule.ratio(t)) ** 2
        z_t, log_w = self._move(torch.zeros_like(self.data.y_bar), variance, variance + self.variances, draw)
        return self.at(alpha_t * self.data.svd.synthesize(z_t), t), log_w + self.log_outside

    def step(self, here: Denoised, s: Tensor, draw: Draw) -> tuple[Denoised, Tensor]:
        alpha_s, sigma_s = here.levels(s)
        ratio_s, svd = sigma_s / alpha_s, self.data.svd
        z_t, z_hat = svd.analyze(here.x_t / here.alpha_t), svd.analyze(here.x0_hat)
        a, b, variance = ddpm_kernel((1.0, here.ratio), (1.0, ratio_s))
        z_s, log_w = self._move(a * z_t + b * z_hat, variance, ratio_s**2 + self.variances, draw)
        log_w = log_w - self._log_normal(z_t, here.ratio**2 + self.variances)
        if ratio_s == 0 and self.op.sigma_y == 0:
            z_s = torch.where(self.data.measured, self.data.y_bar, z_s)
        return here.elsewhere(alpha_s * svd.synthesize(z_s), s), log_w

    def _move(self, m: Tensor, variance: float, v: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        r"""Draw from the normalized :math:`\mathcal{N}(m, c^2 I)\, g` and return its log normalizing constant, ``(B,)``."""
        kalman_gain = torch.where(self.data.measured, variance / (variance + v), 0)
        std = torch.where(self.data.measured, kalman_gain * v, variance).sqrt()
        return m + kalman_gain * (self.data.y_bar - m) + std * draw(m.shape[1:]), self._log_normal(m, variance + v)

    def _log_normal(self, mean: Tensor, variance: Tensor) -> Tensor:
        r"""Return :math:`\log \mathcal{N}(\bar y; m, v)` summed over the measured coordinates, float64, ``(B,)``."""
        v = torch.where(self.data.measured, variance, 1).double()
        each = -0.5 * ((self.data.y_bar - mean).double() ** 2 / v + (2 * math.pi * v).log())
        return torch.where(self.data.measured, each, 0).flatten(1).sum(1)


METHOD = Method(
    MCGDiff,
    paper="Cardoso et al., 2024, arXiv 2308.07983",
    presets={
        "any": Preset(
            {"steps": 100, "particles": 64, "kappa": 1e-4},
            "Cardoso et al., 2024: kappa of the released particle_filter.py; steps and particles as recalled",
        ),
    },
)
