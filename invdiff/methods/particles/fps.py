"""FPS-SMC: filtering posterior sampling of a diffused measurement."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.methods.ddpm_kernel import ddpm_kernel
from invdiff.methods.denoised import Denoised
from invdiff.methods.method import Method, Preset
from invdiff.methods.particles.loop import ParticleMethod
from invdiff.methods.spectral import SpectralData
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["FPS"]


class FPS(ParticleMethod[Denoised]):
    r"""Filtering posterior sampling, in the SVD basis of a linear operator.

    The measurement is diffused like the sample, :math:`y_t = \alpha_t y + \sigma_t A \varepsilon`, so that
    :math:`y_t | x_t \sim \mathcal{N}(A x_t, \alpha_t^2 \sigma_y^2 I)` at every level, and a particle filter with the
    optimal proposal is run on this sequence. In the spectral coordinates :math:`z = V^\top x / \alpha`, with
    :math:`u_t = (U^\top y_t)_i / (\alpha_t s_i)`, :math:`\sigma_i = \sigma_y / s_i` and DDPM's kernel
    :math:`\mathcal{N}(m, c^2)`:

    .. math:: u_s \sim q = \mathcal{N}\big((1 - k)\, u_0 + k\, u_t,\, c^2\big), \quad k = \varsigma_s^2 / \varsigma_t^2, \qquad
        z_{s,i} \sim \mathcal{N}\big(m_i + K (u_s - m_i),\, K \sigma_i^2\big), \quad K = \frac{c^2}{c^2 + \sigma_i^2}

    .. math:: \Delta \log w = \sum_i \log \mathcal{N}(u_s;\, m_i, c^2 + \sigma_i^2) - \log q(u_s)

    Exact data diffuse like the sample: for them the method becomes exact as particles and steps grow, and the samples fit the
    data exactly. **With noise the samples are too close to the measurement**: the whole sequence contains the same measurement
    error, but is filtered as if the errors of different levels were independent, so levels with less noise than the
    measurement count it repeatedly. The evidence estimate is an estimate of :math:`p(y)` for exact data only. ``mcg-diff``
    does not have this flaw.

    Args:
        score: The prior.
        op: A linear operator with ``svd``; ``op.sigma_y`` may be 0.
        y: Measurement, ``(B, *op.out_shape)``, one row per particle.
        particles: Particles per group. They share one sequence of measurements.
        weighted: Whether to return the last weights instead of resampling to equal ones.

    Cost: one denoiser evaluation per step, no gradient.

    References:
        Dou & Song, Diffusion Posterior Sampling for Linear Inverse Problem Solving: A Filtering Perspective, 2024,
        https://openreview.net/forum?id=tplXNcHZs1, algorithm 2. Departures: both sequences use DDPM's kernel, where
        the released code renews 95 % of the noise at every step, which preserves the variance of neither; resampling only if
        the effective sample size is below half. As in the released code, the last step, to zero noise, is not weighted for
        noisy data.
    """

    needs = ("linear", "svd")
    one_operator = True

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, particles: int = 5, weighted: bool = False) -> None:
        super().__init__(score, op, y, particles=particles, weighted=weighted)
        self.data = SpectralData(op, y)
        self.log_volume = float(self.data.svd.singular[self.data.measured].double().log().sum())
        self.u_t = self.data.y_bar

    def start(self, t: Tensor, draw: Draw) -> tuple[Denoised, Tensor]:
        alpha_t, variance = float(self.score.schedule(t)[0]), float(self.score.schedule.ratio(t)) ** 2
        self.u_t, log_q = self._diffuse(self.data.y_bar, variance, draw)
        z_t, log_w = self._move(torch.zeros_like(self.data.y_bar), variance, draw)
        return self.at(alpha_t * self.data.svd.synthesize(z_t), t), log_w - log_q - self.log_volume

    def step(self, here: Denoised, s: Tensor, draw: Draw) -> tuple[Denoised, Tensor]:
        alpha_s, sigma_s = here.levels(s)
        ratio_s, svd, y_bar = sigma_s / alpha_s, self.data.svd, self.data.y_bar
        z_t, z_hat = svd.analyze(here.x_t / here.alpha_t), svd.analyze(here.x0_hat)
        a, b, variance = ddpm_kernel((1.0, here.ratio), (1.0, ratio_s))
        m = a * z_t + b * z_hat
        if ratio_s == 0 and self.op.sigma_y > 0:
            return here.elsewhere(alpha_s * svd.synthesize(m), s), m.new_zeros(len(m), dtype=torch.float64)
        if ratio_s == 0:  # DDPM's kernel is a point mass here, but x_0 given x_t still has the noise variance of x_t.
            log_w = self._log_normal(y_bar, m, torch.full_like(self.data.noise, here.ratio**2))
            return here.elsewhere(alpha_s * svd.synthesize(torch.where(self.data.measured, y_bar, m)), s), log_w
        self.u_t, log_q = self._diffuse(a * self.u_t + b * y_bar, variance, draw)
        z_s, log_w = self._move(m, variance, draw)
        return here.elsewhere(alpha_s * svd.synthesize(z_s), s), log_w - log_q

    def _diffuse(self, mean: Tensor, variance: float, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return the diffused measurement at the next level, shared by the particles of a group, and its log density."""
        first = torch.arange(len(mean), device=mean.device) // self.particles * self.particles
        u = mean + math.sqrt(variance) * draw(mean.shape[1:])[first]
        return u, self._log_normal(u, mean, torch.full_like(self.data.noise, variance))

    def _move(self, m: Tensor, variance: float, draw: Draw) -> tuple[Tensor, Tensor]:
        r"""Draw from :math:`\mathcal{N}(m, c^2)` given the measurement at that level, and return its log density."""
        kalman_gain = torch.where(self.data.measured, variance / (variance + self.data.noise**2), 0)
        std = torch.where(self.data.measured, kalman_gain * self.data.noise**2, variance).sqrt()
        log_w = self._log_normal(self.u_t, m, variance + self.data.noise**2)
        return m + kalman_gain * (self.u_t - m) + std * draw(m.shape[1:]), log_w

    def _log_normal(self, u: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        r"""Return :math:`\log \mathcal{N}(u; \mathrm{mean}, v)` summed over the measured coordinates, float64, ``(B,)``."""
        v = variance.double()
        each = -0.5 * ((u - mean).double() ** 2 / v + (2 * math.pi * v).log())
        return torch.where(self.data.measured, each, 0).flatten(1).sum(1)


METHOD = Method(
    FPS,
    paper="Dou & Song, 2024, ICLR",
    presets={
        "any": Preset(
            {"steps": 1000, "spacing": "vp", "particles": 5},
            "Dou & Song, 2024: README.md and configs/diffusion_config.yaml of the released code",
        ),
    },
)
