"""TDS: the twisted diffusion sampler."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invdiff.linalg import dot, norm
from invdiff.methods.ddpm_kernel import ddpm_kernel
from invdiff.methods.denoised import Denoised
from invdiff.methods.method import Method, Preset
from invdiff.methods.particles.loop import ParticleMethod
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["TDS"]


@dataclass(frozen=True, eq=False)
class Twist:
    r"""The twist :math:`\tilde p_t(x_t)` and its gradient at every particle.

    Attributes:
        at: The states, without an autograd graph.
        gradient: :math:`\nabla \log \tilde p_t`, ``(B, *event)``.
        log_p: :math:`\log \tilde p_t`, float64, ``(B,)``.
    """

    at: Denoised
    gradient: Tensor
    log_p: Tensor

    @property
    def x_t(self) -> Tensor:
        """The states, ``(B, *event)``."""
        return self.at.x_t

    @property
    def estimate(self) -> Tensor:
        """The denoised states."""
        return self.at.x0_hat

    def take(self, rows: Tensor) -> Twist:
        """Return the twist at these rows, without evaluating it again. All rows of a group have the same measurement."""
        return Twist(self.at.take(rows), self.gradient[rows], self.log_p[rows])


class TDS(ParticleMethod[Twist]):
    r"""Twisted sequential Monte Carlo. ``op`` may be nonlinear.

    Particles move by DDPM's kernel :math:`p(x_s | x_t) = \mathcal{N}(m(\hat x_0), c^2 I)` with its mean shifted by the
    gradient of the twist, and the weights correct for the shift:

    .. math:: \tilde p_t(x_t) = \mathcal{N}\big(y;\, A(\hat x_0),\, (\sigma_y^2 + \omega \varsigma_t^2) I\big), \qquad
        x_s \sim q = \mathcal{N}\big(m(\hat x_0^y), c^2 I\big), \quad
        \hat x_0^y = \hat x_0 + \tfrac{\sigma_t^2}{\alpha_t} \nabla \log \tilde p_t(x_t)

    .. math:: \Delta \log w = \log p(x_s | x_t) - \log q(x_s) + \log \tilde p_s(x_s) - \log \tilde p_t(x_t)

    The last twist is the likelihood itself. So for any twist, the samples converge to the posterior of the *discretized* prior
    as the number of particles grows; the better the twist predicts the measurement, the fewer particles are needed.

    Args:
        score: The prior.
        op: The measurement; ``op.sigma_y`` is :math:`\sigma_y > 0`.
        y: Measurement, ``(B, *op.out_shape)``, one row per particle.
        particles: Particles per group.
        weighted: Whether to return the last weights instead of resampling to equal ones.
        widening: :math:`\omega \ge 0`, the share of the noise variance of ``x`` added to the variance of the twist. At 0 the
            twist treats :math:`\hat x_0` as certain.

    Cost: one denoiser evaluation and one vector-Jacobian product per step. States kept after a resampling are not evaluated
    again.

    References:
        Wu et al., Practical and Asymptotically Exact Conditional Sampling in Diffusion Models, 2023,
        https://arxiv.org/abs/2306.17775, algorithm 1. Departures: resampling only if the effective sample size is below
        half; the variance of the twist is widened by :math:`\omega \varsigma_t^2`.
    """

    needs = ("noise",)
    differentiates = True

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

    def start(self, t: Tensor, draw: Draw) -> tuple[Twist, Tensor]:
        twist = self.twist(self.at(self.first_state(t, draw), t))
        return twist, twist.log_p

    def step(self, here: Twist, s: Tensor, draw: Draw) -> tuple[Twist | Denoised, Tensor]:
        at = here.at
        a, b, variance = ddpm_kernel((at.alpha_t, at.sigma_t), at.levels(s))
        mean, c = a * at.x_t + b * at.x0_hat, math.sqrt(variance)
        if c == 0:  # The kernel is a point mass: there is nothing to propose.
            return at.elsewhere(mean, s), self.log_normal(self.y - self.op(mean), self.op.sigma_y**2) - here.log_p
        shift, noise = b * at.sigma_t**2 / at.alpha_t * here.gradient, draw(at.x_t.shape[1:])
        there = self.twist(self.at(mean + shift + c * noise, s))
        log_p_over_q = -(dot(shift, shift) / (2 * variance) + dot(shift, noise) / c).double()
        return there, log_p_over_q + there.log_p - here.log_p

    def twist(self, at: Denoised) -> Twist:
        """Return the twist at a state."""
        measured, linear = self.op.linearized(at.x0_hat)
        variance, residual = self.op.sigma_y**2 + self.widening * at.ratio**2, self.y - measured
        gradient = at.vjp(linear.adjoint(residual / variance))
        return Twist(at.release(), gradient, self.log_normal(residual, variance))

    def log_normal(self, residual: Tensor, variance: float) -> Tensor:
        r"""Return :math:`\log \mathcal{N}(r; 0, v I)`, float64, ``(B,)``."""
        misfit = norm(residual).double() ** 2
        dof = torch.as_tensor(self.op.dof, device=misfit.device)
        return -0.5 * (misfit / variance + dof * math.log(2 * math.pi * variance))


METHOD = Method(
    TDS,
    paper="Wu et al., 2023, arXiv 2306.17775",
    presets={
        "any": Preset({"steps": 100, "particles": 64, "widening": 1.0}, "Wu et al., 2023: steps and particles as recalled"),
    },
)
