"""PiGDM: pseudo-inverse guidance."""

from __future__ import annotations

from torch import Tensor

from invdiff.methods.guidance.base import Guidance, StepRule, denoise_and_pull_back
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["PiGDM"]


class PiGDM(Guidance):
    r"""Gaussian guidance with the isotropic covariance :math:`r_t^2 I`. ``op`` must be linear.

    .. math:: h = r_t^2\, J^\top A^\top (r_t^2 A A^\top + \sigma_y^2 I)^{-1} (y - A \hat x_0), \qquad
        r_t^2 = \frac{\varsigma_t^2 v}{\varsigma_t^2 + v}

    As published, :math:`\alpha_s \alpha_t h` is added to the state after an unconditional step. With ``consistent``, the rule
    follows the posterior mean

    .. math:: E[x_0 | x_t, y] \approx \hat x_0 + \frac{\sigma_t^2}{\alpha_t r_t^2}\, h,

    which is exact for the prior :math:`\mathcal{N}(0, v I)`. Under priors with directions of much larger variance, as
    photographs have, that overshoots by up to :math:`\varsigma_t^2 / v` at high noise and may diverge; the published form does
    not, and gets worse with more steps.

    Args:
        score: The prior.
        op: A linear operator; its ``solve`` gives the bracket.
        y: Measurement, ``(B, *op.out_shape)``.
        data_std: Standard deviation :math:`\sqrt v > 0` of the data; 1 is the published choice.
        consistent: Whether the measurement enters the posterior mean, and with it both terms of the step.

    Cost: one denoiser evaluation, one vector-Jacobian product and one solve in measurement space.

    References:
        Song et al., Pseudoinverse-Guided Diffusion Models for Inverse Problems, 2023,
        https://openreview.net/forum?id=9_gsMA8MRKQ.
    """

    needs = ("linear",)
    op: LinearOperator

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, data_std: float = 1.0, consistent: bool = False) -> None:
        super().__init__(score, op, y)
        if not data_std > 0:
            raise ValueError(f"PiGDM: data_std must be positive, got {data_std}.")
        self.variance, self.consistent = data_std**2, consistent

    def posterior_mean(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = self.score.levels(t, x_t)
        x0_hat, h, r2_t = self._guide(x_t, t)
        return x0_hat + sigma_t**2 / (alpha_t * r2_t) * h

    def advance(self, rule: StepRule | None, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, *, strength: float = 1.0) -> Tensor:
        if self.consistent or rule is None:
            return super().advance(rule, x_t, t, s, draw, strength=strength)
        x0_hat, h, _ = self._guide(x_t, t)

        def mean(x: Tensor, time: Tensor) -> Tensor:
            return x0_hat if x is x_t else self.score.denoise(x, time)

        x_s = rule(mean, self.score.schedule, x_t, t, s, draw(x_t.shape[1:]))
        (alpha_t, _), (alpha_s, _) = self.score.schedule(t), self.score.schedule(s)
        return x_s + strength * float(alpha_s * alpha_t) * h

    def _guide(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Return :math:`\hat x_0`, :math:`h` and :math:`r_t^2`."""
        alpha_t, sigma_t = self.score.levels(t, x_t)
        ratio = (sigma_t / alpha_t) ** 2
        r2_t = ratio * self.variance / (ratio + self.variance)
        x0_hat, pull_back = denoise_and_pull_back(self.score, x_t, t)
        w = self.op.solve(self.y - self.op(x0_hat), self.op.sigma_y**2 / r2_t)
        return x0_hat, pull_back(self.op.adjoint(w)), r2_t
