"""PiGDM: pseudoinverse-guided diffusion models."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.methods.denoised import Denoised
from invdiff.methods.guidance.guidance import ConditionalDenoiser, Correction
from invdiff.methods.method import Method
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["PiGDM"]


class PiGDM(Correction, ConditionalDenoiser):
    r"""Pseudoinverse guidance: Gaussian guidance with the isotropic covariance :math:`r_t^2 I`. ``op`` must be linear.

    .. math:: h = r_t^2\, J^\top A^\top (r_t^2 A A^\top + \sigma_y^2 I)^{-1} (y - A \hat x_0), \qquad
        r_t^2 = \frac{\varsigma_t^2 v}{\varsigma_t^2 + v}

    It follows from :math:`p(x_0 | x_t) \approx \mathcal{N}(\hat x_0, r_t^2 I)`; the gradient of
    :math:`\log p(y | x_t)` is :math:`h / r_t^2`, with :math:`J = \partial \hat x_0 / \partial x_t`. The paper writes
    :math:`H` for :math:`A`. For exact data :math:`h = J^\top (A^+ y - A^+ A \hat x_0)`, the paper's vector :math:`g`.

    As published, :math:`\alpha_s \alpha_t h` is added to the state after an unconditional step. With ``consistent``, the step
    rule instead uses the posterior mean

    .. math:: E[x_0 | x_t, y] \approx \hat x_0 + \frac{\sigma_t^2}{\alpha_t r_t^2}\, h,

    which is exact for the prior :math:`\mathcal{N}(0, v I)`. For priors with directions of much larger variance, such as
    photographs, this form overshoots by up to :math:`\varsigma_t^2 / v` at high noise and may diverge. The published form does
    not diverge, but becomes less accurate with more steps.

    Args:
        score: The prior.
        op: A linear operator; its ``solve`` applies the inverse.
        y: Measurement, ``(B, *op.out_shape)``.
        data_std: Standard deviation :math:`\sqrt v > 0` of the data; 1 is the published choice.
        consistent: Whether the measurement is applied to the posterior mean, and thus to both terms of the step.

    Cost: one denoiser evaluation, one vector-Jacobian product and one solve in measurement space.

    References:
        Song et al., Pseudoinverse-Guided Diffusion Models for Inverse Problems, 2023,
        https://openreview.net/forum?id=9_gsMA8MRKQ.
    """

    needs = ("linear",)
    differentiates = True
    op: LinearOperator

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, data_std: float = 1.0, consistent: bool = False) -> None:
        super().__init__(score, op, y)
        if not data_std > 0:
            raise ValueError(f"PiGDM: data_std must be positive, got {data_std}.")
        self.data_std, self.consistent, self.corrects = data_std, consistent, not consistent

    def correct(self, x_s: Tensor, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        alpha_s, _ = at.levels(s)
        return torch.add(x_s, self.guide(at, self.r2(at)), alpha=alpha_s * at.alpha_t)

    def posterior_mean(self, at: Denoised) -> Tensor:
        r2_t = self.r2(at)
        return torch.add(at.x0_hat, self.guide(at, r2_t), alpha=at.sigma_t**2 / (at.alpha_t * r2_t))

    def r2(self, at: Denoised) -> float:
        r"""Return :math:`r_t^2`, the variance of :math:`x_0` given :math:`x_t` for the prior :math:`\mathcal{N}(0, v I)`."""
        return at.ratio**2 * self.data_std**2 / (at.ratio**2 + self.data_std**2)

    def guide(self, at: Denoised, r2_t: float) -> Tensor:
        r"""Return :math:`h`."""
        # r_t^2 (r_t^2 A A^T + sigma_y^2 I)^-1 = (A A^T + sigma_y^2 / r_t^2 I)^-1
        w = self.op.solve(self.y - self.op(at.x0_hat), self.op.sigma_y**2 / r2_t)
        return at.vjp(self.op.adjoint(w))


METHOD = Method(PiGDM, rule="ddpm", paper="Song et al., 2023, ICLR")
