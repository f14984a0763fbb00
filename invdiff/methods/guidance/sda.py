"""SDA: the likelihood score of score-based data assimilation."""

from __future__ import annotations

from torch import Tensor

from invdiff.methods.guidance.base import Guidance, denoise_and_pull_back
from invdiff.operators import Operator
from invdiff.priors import ScoreModel

__all__ = ["SDA"]


class SDA(Guidance):
    r"""Gaussian guidance whose covariance is isotropic in measurement space. ``op`` may be nonlinear.

    .. math:: p(y | x_t) \approx \mathcal{N}\big(y;\, A(\hat x_0),\, (\sigma_y^2 + \gamma \varsigma_t^2) I\big), \qquad
        E[x_0 | x_t, y] \approx \hat x_0 + \frac{\sigma_t^2}{\alpha_t} J^\top A'(\hat x_0)^\top
        \frac{y - A(\hat x_0)}{\sigma_y^2 + \gamma \varsigma_t^2}

    Exact where :math:`A V_t A^\top = \gamma \varsigma_t^2 I`, as when :math:`A A^\top = \gamma I` and the noise is far below
    the spread of the data. Far above it :math:`A V_t A^\top` is bounded while :math:`\gamma \varsigma_t^2` grows: the
    measurement is trusted too little there, and a smaller :math:`\gamma` trades that against overshooting later.

    Args:
        score: The prior.
        op: The measurement; ``op.sigma_y`` is :math:`\sigma_y`.
        y: Measurement, ``(B, *op.out_shape)``.
        gamma: :math:`\gamma > 0`, in the square of the units of ``y`` over those of ``x``.

    Cost: one denoiser evaluation and one vector-Jacobian product.

    References:
        Rozet & Louppe, Score-based Data Assimilation, 2023, https://arxiv.org/abs/2306.10574. Departure: any step rule
        in the place of the exponential integrator, which is ``ddim``; its Langevin corrections are in the method ``langevin``.
    """

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, gamma: float = 1.0) -> None:
        super().__init__(score, op, y)
        if not gamma > 0:
            raise ValueError(f"SDA: gamma must be positive, got {gamma}. For no inflation use 'dps-gaussian'.")
        self.gamma = gamma

    def posterior_mean(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = self.score.levels(t, x_t)
        x0_hat, pull_back = denoise_and_pull_back(self.score, x_t, t)
        variance = self.op.sigma_y**2 + self.gamma * (sigma_t / alpha_t) ** 2
        w = (self.y - self.op(x0_hat)) / variance
        return x0_hat + sigma_t**2 / alpha_t * pull_back(self.op.jacobian(x0_hat).adjoint(w))
