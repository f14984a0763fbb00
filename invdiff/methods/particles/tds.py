"""TDS: the twisted diffusion sampler."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.linalg import dot, norm
from invdiff.methods.guidance.base import denoise_and_pull_back
from invdiff.methods.particles.loop import ParticleMethod
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["TDS"]


class TDS(ParticleMethod):
    r"""Twisted sequential Monte Carlo. ``op`` may be nonlinear.

    Particles move by DDPM's kernel :math:`p(x_s | x_t) = \mathcal{N}(m(\hat x_0), c^2 I)` with the mean that the twist
    shifts, and weights make up for the shift:

    .. math:: \tilde p_t(x_t) = \mathcal{N}\big(y;\, A(\hat x_0),\, (\sigma_y^2 + \omega \varsigma_t^2) I\big), \qquad
        x_s \sim q = \mathcal{N}\big(m(\hat x_0^y), c^2 I\big), \quad
        \hat x_0^y = \hat x_0 + \tfrac{\sigma_t^2}{\alpha_t} \nabla \log \tilde p_t(x_t)

    .. math:: \Delta \log w = \log p(x_s | x_t) - \log q(x_s) + \log \tilde p_s(x_s) - \log \tilde p_t(x_t)

    The last twist is the likelihood itself. So for whatever twist, it samples the posterior of the *discretised* prior as the
    number of particles grows; the better the twist foretells the measurement, the fewer are needed.

    Args:
        score: The prior.
        op: The measurement; ``op.sigma_y`` is :math:`\sigma_y > 0`.
        y: Measurement, ``(B, *op.out_shape)``, one row per particle.
        particles: Particles in a group.
        weighted: Whether to hand out the last weights instead of resampling to equal ones.
        widening: :math:`\omega \ge 0`: how much of the noise in ``x`` the twist allows for. 0 trusts the denoiser blindly.

    Cost: one denoiser evaluation and one vector-Jacobian product a step, and both again after a resampling.

    References:
        Wu et al., Practical and Asymptotically Exact Conditional Sampling in Diffusion Models, 2023,
        https://arxiv.org/abs/2306.17775, algorithm 1. Departures: resampling only where the effective sample size has fallen
        below half; the twist is widened.
    """

    needs = ("noise",)

    def __init__(
        self,
        score: ScoreModel,
        op: Operator,
        y: Tensor,
        *,
        particles: int = 16,
        weighted: bool = False,
        widening: float = 1.0,
    ) -> None:
        super().__init__(score, op, y, particles=particles, weighted=weighted)
        if not widening >= 0:
            raise ValueError(f"TDS: widening must not be negative, got {widening}.")
        self.widening = widening
        self._twisted: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def start(self, t: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        x_t, _ = super().start(t, draw)
        return x_t, self._twist(x_t, t)[2]

    def step(self, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        x0_hat, gradient, log_twist = self._twist(x_t, t)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (map(float, self.score.schedule(time)) for time in (t, s))
        kappa = (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2
        b, c = alpha_s * (1 - kappa), sigma_s * math.sqrt(1 - kappa)  # of x_s given x_t and x_0
        mean = alpha_t * sigma_s**2 / (alpha_s * sigma_t**2) * x_t + b * x0_hat
        if sigma_s == 0:  # The kernel is a point: there is nothing to propose.
            return mean, self._log_normal(mean, self.op.sigma_y**2) - log_twist
        shift, noise = b * sigma_t**2 / alpha_t * gradient, draw(x_t.shape[1:])
        x_s = mean + shift + c * noise
        log_p_over_q = -(dot(shift, shift) / (2 * c**2) + dot(shift, noise) / c).double()
        return x_s, log_p_over_q + self._twist(x_s, s)[2] - log_twist

    def _twist(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Return :math:`\hat x_0`, :math:`\nabla \log \tilde p_t` and :math:`\log \tilde p_t`, kept until a resampling."""
        if self._twisted is None or self._twisted[0] is not x_t:
            variance = self.op.sigma_y**2 + self.widening * float(self.score.schedule.ratio(t)) ** 2
            x0_hat, pull_back = denoise_and_pull_back(self.score, x_t, t)
            pulled = self.op.jacobian(x0_hat).adjoint(self.y - self.op(x0_hat))
            self._twisted = x_t, x0_hat, pull_back(pulled / variance), self._log_normal(x0_hat, variance)
        return self._twisted[1:]

    def _log_normal(self, x_0: Tensor, variance: float) -> Tensor:
        r"""Return :math:`\log \mathcal{N}(y; A(x_0), v I)`, float64, ``(B,)``."""
        misfit = norm(self.y - self.op(x_0)).double() ** 2
        dof = torch.as_tensor(self.op.dof, device=misfit.device)
        return -0.5 * (misfit / variance + dof * math.log(2 * math.pi * variance))
