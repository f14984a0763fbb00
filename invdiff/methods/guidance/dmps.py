"""DMPS: the likelihood score under a flat prior."""

from __future__ import annotations

from torch import Tensor

from invdiff.methods.guidance.base import Guidance
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel

__all__ = ["DMPS"]


class DMPS(Guidance):
    r"""Gaussian guidance as if the prior were flat: no gradient of the network. ``op`` must be linear.

    .. math:: p(x_0 | x_t) \approx \mathcal{N}\Big(\frac{x_t}{\alpha_t},\, \varsigma_t^2 I\Big), \qquad
        E[x_0 | x_t, y] \approx \hat x_0 + \lambda\, \varsigma_t^2 A^\top (\sigma_y^2 I + \varsigma_t^2 A A^\top)^{-1}
        \Big(y - \frac{A x_t}{\alpha_t}\Big)

    The prior enters :math:`\hat x_0` and not the likelihood: exact (:math:`\lambda = 1`) as the prior's variance grows. The
    shift moves measured directions only.

    Args:
        score: The prior.
        op: A linear operator; its ``solve`` gives the inverse.
        y: Measurement, ``(B, *op.out_shape)``.
        weight: :math:`\lambda \ge 0`.

    Cost: one denoiser evaluation and one solve in measurement space.

    References:
        Meng & Kabashima, Diffusion Model Based Posterior Sampling for Noisy Linear Inverse Problems, 2022,
        https://arxiv.org/abs/2211.12343. Departure: the shift enters the posterior mean, and with it any step rule (with
        ``ddpm`` the step is that of the authors' code).
    """

    needs = ("linear",)
    op: LinearOperator

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, weight: float = 1.0) -> None:
        super().__init__(score, op, y)
        if not weight >= 0:
            raise ValueError(f"DMPS: weight must not be negative, got {weight}.")
        self.weight = weight

    def posterior_mean(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = self.score.levels(t, x_t)
        ratio = sigma_t / alpha_t
        w = self.op.solve(self.y - self.op(x_t / alpha_t), (self.op.sigma_y / ratio) ** 2)
        return self.score.denoise(x_t, t) + self.weight * self.op.adjoint(w)
