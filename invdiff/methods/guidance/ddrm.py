"""DDRM: denoising diffusion restoration models."""

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

__all__ = ["DDRM"]


class DDRM(Transition):
    r"""Denoising diffusion restoration, in spectral coordinates :math:`\bar x = V^\top x_t / \alpha_t`.

    With :math:`A = U \operatorname{diag}(s) V^\top`, :math:`\bar y_i = (U^\top y)_i / s_i` with noise level
    :math:`\nu_i = \sigma_y / s_i`, :math:`\bar x_0 = V^\top \hat x_0` and
    :math:`\bar\varepsilon = (\bar x_t - \bar x_0) / \varsigma_t`, each coordinate is drawn from a Gaussian:

    .. math:: \bar x_{s,i} \sim \begin{cases}
        \mathcal{N}\big(\bar x_{0,i} + \sqrt{1 - \eta^2}\, \varsigma_s \bar\varepsilon_i,\;
            \eta^2 \varsigma_s^2\big) & s_i = 0 \\
        \mathcal{N}\big(\bar x_{0,i} + \sqrt{1 - \eta^2}\, \varsigma_s (\bar y_i - \bar x_{0,i}) / \nu_i,\;
            \eta^2 \varsigma_s^2\big) & \varsigma_s < \nu_i \\
        \mathcal{N}\big((1 - \eta_b) \bar x_{0,i} + \eta_b \bar y_i,\; \varsigma_s^2 - \eta_b^2 \nu_i^2\big)
            & \varsigma_s \ge \nu_i \end{cases}

    The first state is :math:`\bar x_{T,i} \sim \mathcal{N}(\bar y_i, \varsigma_T^2 - \nu_i^2)` where that variance is
    positive, and :math:`\mathcal{N}(0, \varsigma_T^2)` elsewhere. The three cases are those of the paper, in its order: no
    measurement, measurement noisier than the state, state noisier than the measurement. The paper writes
    :math:`\bar x_{\theta,t}` for :math:`\bar x_0`, :math:`\sigma_t` for :math:`\varsigma_s` and :math:`\sigma_{t+1}` for
    :math:`\varsigma_t`.

    This is a restoration method rather than a sampler. Even for Gaussian priors the mean is biased and the spread too small,
    more so at :math:`\eta = 1`, where noisy data are forgotten over many steps. Without the denoiser's Jacobian it cannot
    choose the mode. Prefer ``mmps`` where the posterior spread matters.

    Args:
        score: The prior.
        op: A linear operator with ``svd``; ``op.sigma_y`` is :math:`\sigma_y`, which may be 0.
        y: Measurement, ``(B, *op.out_shape)``.
        eta: Share :math:`\eta` of fresh noise in [0, 1], where nothing is measured or the state is less noisy than the data.
        eta_b: Weight :math:`\eta_b` of the data in [0, 1], where the state is noisier than the data.

    Cost: one denoiser evaluation and two changes of basis per step. No gradients.

    References:
        Kawar et al., Denoising Diffusion Restoration Models, 2022, https://arxiv.org/abs/2201.11793, section 3
    """

    needs = ("linear", "svd")
    one_operator = True
    in_windows = True

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, eta: float = 0.85, eta_b: float = 1.0) -> None:
        super().__init__(score, op, y)
        if not 0 <= eta <= 1 or not 0 <= eta_b <= 1:
            raise ValueError(f"DDRM: eta and eta_b must lie in [0, 1], got {eta} and {eta_b}.")
        self.eta, self.eta_b, self.data = eta, eta_b, SpectralData(op, y)

    def start(self, t: Tensor, draw: Draw) -> Tensor:
        alpha_t, ratio_t = float(self.score.schedule(t)[0]), float(self.score.schedule.ratio(t))
        y_bar, nu = self.data.y_bar, self.data.noise
        noise = ratio_t * draw(self.data.svd.shape)
        rest = (ratio_t**2 - nu**2).clamp(min=0).sqrt() / ratio_t
        return alpha_t * self.data.svd.synthesize(torch.where(ratio_t > nu, y_bar + rest * noise, noise))

    def transition(self, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        alpha_s, sigma_s = at.levels(s)
        ratio_s, eta, eta_b, kept = sigma_s / alpha_s, self.eta, self.eta_b, math.sqrt(1 - self.eta**2)
        svd, y_bar, nu = self.data.svd, self.data.y_bar, self.data.noise
        x0_bar = svd.analyze(at.x0_hat)
        eps_bar = svd.analyze((at.x_t / at.alpha_t - at.x0_hat) / at.ratio)
        z = draw(svd.shape)

        # The three cases: s_i = 0; state cleaner than the data; state noisier than the data.
        missing = x0_bar + kept * ratio_s * eps_bar + eta * ratio_s * z
        cleaner = x0_bar + kept * ratio_s * (y_bar - x0_bar) / nu + eta * ratio_s * z
        noisier = (1 - eta_b) * x0_bar + eta_b * y_bar + (ratio_s**2 - (eta_b * nu) ** 2).clamp(min=0).sqrt() * z
        known = torch.where(ratio_s < nu, cleaner, noisier)
        return alpha_s * svd.synthesize(torch.where(self.data.measured, known, missing))


METHOD = Method(
    DDRM,
    steps=20,
    spacing="vp",
    paper="Kawar et al., 2022, arXiv 2201.11793",
    presets={
        "any": Preset(
            {"steps": 20, "spacing": "vp", "eta": 0.85, "eta_b": 1.0},
            "Kawar et al., 2022: defaults of the released code (README.md)",
        ),
    },
)
