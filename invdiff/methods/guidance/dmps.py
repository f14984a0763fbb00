"""DMPS: the likelihood score under a flat prior."""

from __future__ import annotations

from torch import Tensor

from invdiff.methods.denoised import Denoised
from invdiff.methods.guidance.guidance import ConditionalDenoiser
from invdiff.methods.method import Method, Preset
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel

__all__ = ["DMPS"]


class DMPS(ConditionalDenoiser):
    r"""Gaussian guidance as if the prior were flat: no gradient of the network. ``op`` must be linear.

    .. math:: p(x_0 | x_t) \approx \mathcal{N}\Big(\frac{x_t}{\alpha_t},\, \varsigma_t^2 I\Big), \qquad
        E[x_0 | x_t, y] \approx \hat x_0 + \lambda\, \varsigma_t^2 A^\top (\sigma_y^2 I + \varsigma_t^2 A A^\top)^{-1}
        \Big(y - \frac{A x_t}{\alpha_t}\Big)

    The prior enters :math:`\hat x_0` but not the likelihood: with :math:`\lambda = 1` the mean becomes exact as the variance of
    the prior grows. The shift changes measured directions only.

    Args:
        score: The prior.
        op: A linear operator; its ``solve`` gives the inverse.
        y: Measurement, ``(B, *op.out_shape)``.
        weight: :math:`\lambda \ge 0`.

    Cost: one denoiser evaluation and one solve in measurement space.

    References:
        Meng & Kabashima, Diffusion Model Based Posterior Sampling for Noisy Linear Inverse Problems, 2022,
        https://arxiv.org/abs/2211.12343. Departure: the shift is applied to the posterior mean, so any step rule can be used
        (``ddpm`` gives the step of the authors' code).
    """

    needs = ("linear",)
    op: LinearOperator

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, weight: float = 1.0) -> None:
        super().__init__(score, op, y)
        if not weight >= 0:
            raise ValueError(f"DMPS: weight must not be negative, got {weight}.")
        self.weight = weight

    def posterior_mean(self, at: Denoised) -> Tensor:
        w = self.op.solve(self.y - self.op(at.x_t / at.alpha_t), (self.op.sigma_y / at.ratio) ** 2)
        return at.x0_hat + self.weight * self.op.adjoint(w)


METHOD = Method(
    DMPS,
    rule="ddpm",
    paper="Meng & Kabashima, 2022, arXiv 2211.12343",
    presets={
        "blur": Preset(
            {"steps": 1000, "rule": "ddpm", "spacing": "vp", "weight": 1.75},
            "authors' code, scale 1.75 for Gaussian deblurring; 256 x 256, sigma_y 0.05; 1000 steps as recalled",
        ),
        "downsample": Preset(
            {"steps": 1000, "rule": "ddpm", "spacing": "vp", "weight": 1.75},
            "authors' code, scale 1.75 for super-resolution x4; 256 x 256, sigma_y 0.05; 1000 steps as recalled",
        ),
    },
)
