"""DPS with the likelihood it started from."""

from __future__ import annotations

from torch import Tensor

from invdiff.methods.guidance.base import Guidance, StepRule, denoise_and_pull_back
from invdiff.methods.step_limit import hold_back
from invdiff.random import Draw

__all__ = ["DPSGaussian"]


class DPSGaussian(Guidance):
    r"""The point-mass approximation of DPS with the Gaussian likelihood itself. ``op`` may be nonlinear; noise is needed.

    .. math:: p(y | x_t) \approx \mathcal{N}(y;\, A(\hat x_0),\, \sigma_y^2 I), \qquad
        E[x_0 | x_t, y] \approx \hat x_0 + \frac{\sigma_t^2}{\alpha_t \sigma_y^2}
        J^\top A'(\hat x_0)^\top (y - A(\hat x_0))

    What DPS derives before it replaces :math:`1 / \sigma_y^2` by a tuned number. It takes :math:`\hat x_0` for certain, so it
    trusts the measurement too much wherever :math:`A V_t A^\top` exceeds :math:`\sigma_y^2`: the shift overshoots by that
    ratio, and few steps must hold it back. A reference, not a recommendation.

    Args:
        score: The prior.
        op: The measurement; ``op.sigma_y`` is :math:`\sigma_y`.
        y: Measurement, ``(B, *op.out_shape)``.

    Cost: one denoiser evaluation, one vector-Jacobian product and two more operators.

    References:
        Chung et al., Diffusion Posterior Sampling for General Noisy Inverse Problems, 2023, https://arxiv.org/abs/2209.14687.
        Departures: the weight :math:`1 / \sigma_y^2` of its theory instead of the step size of its algorithm; steps hold the
        shift back where they would overshoot (:func:`invdiff.methods.step_limit.hold_back`), ever less as they grow in number.
    """

    needs = ("noise",)

    def posterior_mean(self, x_t: Tensor, t: Tensor) -> Tensor:
        x0_hat, shift, _ = self._shift(x_t, t)
        return x0_hat + shift

    def advance(self, rule: StepRule | None, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, *, strength: float = 1.0) -> Tensor:
        if rule is None:
            raise ValueError("DPSGaussian has no step of its own: give a rule.")
        share = 1 - float(self.score.schedule.ratio(s) / self.score.schedule.ratio(t)) ** 2

        def mean(x: Tensor, time: Tensor) -> Tensor:
            x0_hat, shift, residual = self._shift(x, time)
            return x0_hat + strength * hold_back(shift, self.op, x0_hat, residual, share=share)

        return rule(mean, self.score.schedule, x_t, t, s, draw(x_t.shape[1:]))

    def _shift(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the prior's mean, the shift of it and the residual."""
        alpha_t, sigma_t = self.score.levels(t, x_t)
        x0_hat, pull_back = denoise_and_pull_back(self.score, x_t, t)
        residual = self.y - self.op(x0_hat)
        gradient = pull_back(self.op.jacobian(x0_hat).adjoint(residual / self.op.sigma_y**2))
        return x0_hat, sigma_t**2 / alpha_t * gradient, residual
