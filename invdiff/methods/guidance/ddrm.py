"""DDRM: restoration in spectral coordinates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.methods.guidance.base import Guidance, StepRule
from invdiff.methods.spectral import SpectralData
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["DDRM"]


class DDRM(Guidance):
    r"""Denoising diffusion restoration, in spectral coordinates :math:`\bar x = V^\top x_t / \alpha_t`.

    With :math:`A = U \operatorname{diag}(s) V^\top`, :math:`\bar y_i = (U^\top y)_i / s_i` of noise
    :math:`\nu_i = \sigma_y / s_i`, :math:`\bar x_0 = V^\top \hat x_0` and
    :math:`\bar\varepsilon = (\bar x_t - \bar x_0) / \varsigma_t`, each coordinate is drawn from a Gaussian:

    .. math:: \bar x_{s,i} \sim \begin{cases}
        \mathcal{N}\big(\bar x_{0,i} + \sqrt{1 - \eta^2}\, \varsigma_s \bar\varepsilon_i,\;
            \eta^2 \varsigma_s^2\big) & s_i = 0 \\
        \mathcal{N}\big(\bar x_{0,i} + \sqrt{1 - \eta^2}\, \varsigma_s (\bar y_i - \bar x_{0,i}) / \nu_i,\;
            \eta^2 \varsigma_s^2\big) & \varsigma_s < \nu_i \\
        \mathcal{N}\big((1 - \eta_b) \bar x_{0,i} + \eta_b \bar y_i,\; \varsigma_s^2 - \eta_b^2 \nu_i^2\big)
            & \varsigma_s \ge \nu_i \end{cases}

    It starts from :math:`\bar y_i` with variance :math:`\varsigma_T^2 - \nu_i^2` where that is positive, and from
    noise elsewhere. A restoration method rather than a sampler: even for Gaussian priors the mean is off and the spread too
    small, and at :math:`\eta = 1` more so, since over many steps noisy data are forgotten. Without the denoiser's Jacobian it
    cannot choose the mode. Prefer ``mmps`` where the spread has to be right.

    Args:
        score: The prior.
        op: A linear operator with ``svd``; ``op.sigma_y`` is :math:`\sigma_y`, which may be 0.
        y: Measurement, ``(B, *op.out_shape)``.
        eta: Share :math:`\eta` of fresh noise in [0, 1] where the state is less noisy than the data.
        eta_b: Weight :math:`\eta_b` of the data in [0, 1] where the state is noisier.

    Cost: one denoiser evaluation and two changes of basis per step. No gradients.

    References:
        Kawar et al., Denoising Diffusion Restoration Models, 2022, https://arxiv.org/abs/2201.11793, section 3
    """

    needs = ("linear", "svd")
    one_operator = True
    own_step = True
    follows_rules = False

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, eta: float = 0.85, eta_b: float = 1.0) -> None:
        super().__init__(score, op, y)
        if not 0 <= eta <= 1 or not 0 <= eta_b <= 1:
            raise ValueError(f"DDRM: eta and eta_b must lie in [0, 1], got {eta} and {eta_b}.")
        self.eta, self.eta_b, self.data = eta, eta_b, SpectralData(op, y)

    def start(self, t: Tensor, draw: Draw) -> Tensor:
        alpha_t, data = float(self.score.schedule(t)[0]), self.data
        ratio_t = float(self.score.schedule.ratio(t))
        noise = ratio_t * draw(data.svd.shape)
        rest = (ratio_t**2 - data.noise**2).clamp(min=0).sqrt() / ratio_t
        return alpha_t * data.svd.synthesize(torch.where(ratio_t > data.noise, data.y_bar + rest * noise, noise))

    def advance(self, rule: StepRule | None, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, *, strength: float = 1.0) -> Tensor:
        alpha_t, alpha_s = (float(self.score.schedule(time)[0]) for time in (t, s))
        ratio_t, ratio_s = (float(self.score.schedule.ratio(time)) for time in (t, s))
        data, kept = self.data, math.sqrt(1 - self.eta**2)
        x0_hat = self.score.denoise(x_t, t)
        x0_bar = data.svd.analyze(x0_hat)
        eps_bar = data.svd.analyze((x_t / alpha_t - x0_hat) / ratio_t)
        noise = draw(data.svd.shape)

        missing = x0_bar + ratio_s * (kept * eps_bar + self.eta * noise)
        noisier = ratio_s >= data.noise
        pull = torch.where(noisier, self.eta_b, kept * ratio_s / data.noise)
        rest = (ratio_s**2 - (self.eta_b * data.noise) ** 2).clamp(min=0).sqrt()
        known = x0_bar + pull * (data.y_bar - x0_bar) + torch.where(noisier, rest, self.eta * ratio_s) * noise
        x_bar = torch.where(data.measured, torch.lerp(missing, known, strength), missing)
        return alpha_s * data.svd.synthesize(x_bar)
