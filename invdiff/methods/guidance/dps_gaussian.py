"""DPS with the Gaussian likelihood that it is derived from."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from invdiff.methods.denoised import Denoised, PosteriorMean
from invdiff.methods.guidance.guidance import ConditionalDenoiser
from invdiff.methods.method import Method
from invdiff.methods.step_limit import limit_step, share_of_step
from invdiff.operators import LinearOperator
from invdiff.random import Draw

__all__ = ["DPSGaussian"]


class DPSGaussian(ConditionalDenoiser):
    r"""The point-mass approximation of DPS with its Gaussian likelihood. ``op`` may be nonlinear; noise is required.

    .. math:: p(y | x_t) \approx \mathcal{N}(y;\, A(\hat x_0),\, \sigma_y^2 I), \qquad
        E[x_0 | x_t, y] \approx \hat x_0 + \frac{\sigma_t^2}{\alpha_t \sigma_y^2}
        J^\top A'(\hat x_0)^\top (y - A(\hat x_0))

    This is the score that DPS derives before it replaces :math:`1 / \sigma_y^2` by a tuned step size. It treats
    :math:`\hat x_0` as certain, so it overweights the measurement wherever :math:`A V_t A^\top` exceeds
    :math:`\sigma_y^2`: the shift overshoots by that ratio, and must be limited when there are few steps. It is included as a
    reference, not as a recommendation.

    Args:
        score: The prior.
        op: The measurement; ``op.sigma_y`` is :math:`\sigma_y`.
        y: Measurement, ``(B, *op.out_shape)``.

    Cost: one denoiser evaluation, one vector-Jacobian product and two more operators.

    References:
        Chung et al., Diffusion Posterior Sampling for General Noisy Inverse Problems, 2023, https://arxiv.org/abs/2209.14687.
        Departures: the weight :math:`1 / \sigma_y^2` of its theory instead of the step size of its algorithm; the shift is
        limited where a step would overshoot (:func:`invdiff.methods.step_limit.limit_step`), less so as steps get smaller.
    """

    needs = ("noise",)
    differentiates = True

    def posterior_mean(self, at: Denoised) -> Tensor:
        measured, linear = self.op.linearized(at.x0_hat)
        return at.x0_hat + self.shift(at, self.y - measured, linear)

    def step_mean(self, at: Denoised, s: Tensor, draw: Draw) -> PosteriorMean:
        return partial(self.limited_mean, share=share_of_step(at, s))

    def limited_mean(self, at: Denoised, *, share: float) -> Tensor:
        """Return the posterior mean for a step that takes ``share`` of its shift."""
        measured, linear = self.op.linearized(at.x0_hat)
        residual = self.y - measured
        return at.x0_hat + limit_step(self.shift(at, residual, linear), linear, residual, share=share)

    def shift(self, at: Denoised, residual: Tensor, linear: LinearOperator) -> Tensor:
        r"""Return the shift of :math:`\hat x_0` by the likelihood, given :math:`y - A(\hat x_0)` and the Jacobian there."""
        return at.covariance(linear.adjoint(residual / self.op.sigma_y**2))


METHOD = Method(DPSGaussian, rule="ddpm", steps=1000, paper="Chung et al., 2023, arXiv 2209.14687")
