"""SDA: the likelihood score of score-based data assimilation."""

from __future__ import annotations

from torch import Tensor

from invdiff.methods.denoised import Denoised
from invdiff.methods.guidance.guidance import ConditionalDenoiser
from invdiff.methods.method import Method, Preset
from invdiff.operators import Operator
from invdiff.priors import ScoreModel

__all__ = ["SDA"]


class SDA(ConditionalDenoiser):
    r"""Gaussian guidance whose covariance is isotropic in measurement space. ``op`` may be nonlinear.

    .. math:: p(y | x_t) \approx \mathcal{N}\big(y;\, A(\hat x_0),\, (\sigma_y^2 + \gamma \varsigma_t^2) I\big), \qquad
        E[x_0 | x_t, y] \approx \hat x_0 + \frac{\sigma_t^2}{\alpha_t} J^\top A'(\hat x_0)^\top
        \frac{y - A(\hat x_0)}{\sigma_y^2 + \gamma \varsigma_t^2}

    Exact where :math:`A V_t A^\top = \gamma \varsigma_t^2 I`, for example if :math:`A A^\top = \gamma I` and
    :math:`\varsigma_t` is far below the standard deviation of the data. Far above it :math:`A V_t A^\top` is bounded while
    :math:`\gamma \varsigma_t^2` grows: the measurement is underweighted there, and a smaller :math:`\gamma` trades this for
    overshooting later.

    Args:
        score: The prior.
        op: The measurement; ``op.sigma_y`` is :math:`\sigma_y`.
        y: Measurement, ``(B, *op.out_shape)``.
        gamma: Covariance inflation :math:`\gamma > 0`, in (units of ``y``)² / (units of ``x``)².

    Cost: one denoiser evaluation and one vector-Jacobian product.

    References:
        Rozet & Louppe, Score-based Data Assimilation, 2023, https://arxiv.org/abs/2306.10574. Departure: any step rule
        instead of the exponential integrator (which is ``ddim``); its Langevin corrections are in the method ``langevin``.
    """

    differentiates = True

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, gamma: float = 1.0) -> None:
        super().__init__(score, op, y)
        if not gamma > 0:
            raise ValueError(f"SDA: gamma must be positive, got {gamma}. For no inflation use 'dps-gaussian'.")
        self.gamma = gamma

    def posterior_mean(self, at: Denoised) -> Tensor:
        variance = self.op.sigma_y**2 + self.gamma * at.ratio**2
        measured, linear = self.op.linearized(at.x0_hat)
        return at.x0_hat + at.covariance(linear.adjoint((self.y - measured) / variance))


METHOD = Method(
    SDA,
    rule="ddim",
    paper="Rozet & Louppe, 2023, arXiv 2306.10574",
    presets={
        "any": Preset(
            {"steps": 256, "rule": "ddim", "gamma": 1e-2},
            "authors' code, Lorenz 1963, without its Langevin corrections; for data of unit variance and an operator that "
            "picks entries. The levels are those of this library",
        ),
    },
)
