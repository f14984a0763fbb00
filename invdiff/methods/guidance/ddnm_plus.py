"""DDNM+: null-space correction for noisy data, in the SVD basis."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.methods.denoised import Denoised
from invdiff.methods.guidance.guidance import Transition
from invdiff.methods.method import Method, Preset
from invdiff.methods.spectral import SpectralData
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["DDNMPlus"]


class DDNMPlus(Transition):
    r"""DDNM for noisy data, in the spectral coordinates of :math:`A = U \operatorname{diag}(s) V^\top`.

    .. math:: \bar x_{s,i} = \alpha_s \big(\bar x_{0,i} + \lambda_i (\bar y_i - \bar x_{0,i})\big)
        + b_i \bar\varepsilon_i + c_i z_i, \qquad \bar x_0 = V^\top \hat x_0, \quad \bar y_i = (U^\top y)_i / s_i

    .. math:: (\lambda_i, b_i, c_i) = \begin{cases}
        \big(1,\; 0,\; \sqrt{\sigma_s^2 - \alpha_s^2 \nu_i^2}\big) & \varsigma_s \ge \nu_i = \sigma_y / s_i \\
        \big(\sqrt{1 - \eta^2}\, \varsigma_s / \nu_i,\; 0,\; \eta \sigma_s\big) & \varsigma_s < \nu_i \\
        \big(0,\; \sqrt{1 - \eta^2}\, \sigma_s,\; \eta \sigma_s\big) & s_i = 0 \end{cases}

    In the first two cases the noise of the data supplies the rest of the variance :math:`\sigma_s^2`. As a sampler it is
    under-dispersed, and like DDNM it cannot choose the mode. Prefer ``mmps`` where the posterior spread matters.

    Args:
        score: The prior.
        op: A linear operator with ``svd``; ``op.sigma_y`` is :math:`\sigma_y`, which may be 0.
        y: Measurement, ``(B, *op.out_shape)``.
        eta: Share :math:`\eta` of fresh noise in [0, 1].

    Cost: one denoiser evaluation and two changes of basis per step. No gradients.

    References:
        Wang et al., Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model, 2023,
        https://arxiv.org/abs/2212.00490, eq. 17 and 51 (as numbered in the released code). Departure: no time travel.
    """

    needs = ("linear", "svd")
    one_operator = True
    in_windows = True

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, eta: float = 0.85) -> None:
        super().__init__(score, op, y)
        if not 0 <= eta <= 1:
            raise ValueError(f"DDNM+: eta must lie in [0, 1], got {eta}.")
        self.eta, self.data = eta, SpectralData(op, y)

    def transition(self, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        alpha_s, sigma_s = at.levels(s)
        svd, y_bar, nu, kept = self.data.svd, self.data.y_bar, self.data.noise, math.sqrt(1 - self.eta**2)
        x0_bar = svd.analyze(at.x0_hat)
        eps_bar = svd.analyze((at.x_t - at.alpha_t * at.x0_hat) / at.sigma_t)
        z = draw(svd.shape)

        noisier = sigma_s >= alpha_s * nu
        pull = torch.where(noisier, 1, kept * sigma_s / (alpha_s * nu))
        fresh = torch.where(noisier, (sigma_s**2 - (alpha_s * nu) ** 2).clamp(min=0).sqrt(), self.eta * sigma_s)
        known = alpha_s * (x0_bar + pull * (y_bar - x0_bar)) + fresh * z
        missing = alpha_s * x0_bar + sigma_s * (kept * eps_bar + self.eta * z)
        return svd.synthesize(torch.where(self.data.measured, known, missing))


METHOD = Method(
    DDNMPlus,
    spacing="vp",
    paper="Wang et al., 2023, arXiv 2212.00490",
    presets={
        "any": Preset(
            {"steps": 100, "spacing": "vp", "eta": 0.85},
            "Wang et al., 2023: steps as recalled, eta of the released scripts (evaluation.sh)",
        ),
    },
)
