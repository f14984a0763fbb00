"""PiGDM: pseudo-inverse guidance."""

from __future__ import annotations

from torch import Tensor

from invdiff.guidance.base import Guidance, denoise_and_pull_back
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel

__all__ = ["PiGDM"]


class PiGDM(Guidance):
    r"""Gaussian guidance with the isotropic covariance :math:`r_t^2 I`. ``op`` must be linear.

    .. math:: E[x_0 | x_t, y] \approx \hat x_0 + \frac{\sigma_t^2}{\alpha_t} J^\top A^\top
        (r_t^2 A A^\top + \sigma_y^2 I)^{-1} (y - A \hat x_0), \qquad r_t^2 = \frac{\varsigma_t^2 v}{\varsigma_t^2 + v}

    Exact for the prior :math:`\mathcal{N}(0, v I)`; ``data_std=1`` is the published choice.

    Args:
        score: The prior.
        op: A linear operator; its ``solve`` gives the bracket.
        y: Measurement, ``(B, *op.out_shape)``.
        data_std: Standard deviation :math:`\sqrt v > 0` of the data.

    Cost: one denoiser evaluation, one vector-Jacobian product and one solve in measurement space.

    References:
        Song et al., Pseudoinverse-Guided Diffusion Models for Inverse Problems, 2023,
        https://openreview.net/forum?id=9_gsMA8MRKQ. Departure: the shift enters the posterior mean, and with it both terms
        of the step; the additive weighting of common code diverges as the number of steps grows.
    """

    needs = ("linear",)
    op: LinearOperator

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, data_std: float = 1.0) -> None:
        super().__init__(score, op, y)
        if not data_std > 0:
            raise ValueError(f"PiGDM: data_std must be positive, got {data_std}.")
        self.variance = data_std**2

    def posterior_mean(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = self.score.levels(t, x_t)
        ratio = (sigma_t / alpha_t) ** 2
        r2_t = ratio * self.variance / (ratio + self.variance)
        x0_hat, pull_back = denoise_and_pull_back(self.score, x_t, t)
        w = self.op.solve(self.y - self.op(x0_hat), self.op.sigma_y**2 / r2_t) / r2_t
        return x0_hat + sigma_t**2 / alpha_t * pull_back(self.op.adjoint(w))
