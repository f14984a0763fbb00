"""DDNM and DDNM+: null-space correction."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.methods.guidance.base import Guidance, StepRule
from invdiff.methods.spectral import SpectralData
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["DDNM", "DDNMPlus"]


class DDNM(Guidance):
    r"""Denoising diffusion null-space model, for exact data and any linear operator.

    .. math:: \hat x_0' = \hat x_0 + A^+ (y - A \hat x_0), \qquad
        x_s = \alpha_s \hat x_0' + \sigma_s \big(\sqrt{1 - \eta^2}\, \hat\varepsilon + \eta z\big), \qquad
        \hat\varepsilon = \frac{x_t - \alpha_t \hat x_0}{\sigma_t}

    The range of :math:`A^+` is taken from the data, its complement from the denoiser; the last state fits the data exactly.
    With time travel, every step is taken ``travel_repeats`` times, and in between the state goes back to :math:`t` by forward
    diffusion, so that what is not measured can settle with what is.

    Without the denoiser's Jacobian the data move measured directions only: what is not measured follows where the denoiser
    takes it, and among several modes the wrong one is often kept. Prefer ``mmps`` where the spread has to be right.

    Args:
        score: The prior.
        op: A linear operator without noise; its ``pinv`` gives :math:`A^+`.
        y: Measurement, ``(B, *op.out_shape)``.
        eta: Share :math:`\eta` of fresh noise in [0, 1], in the own step.
        travel_repeats: How many times each own step is taken, at least 1.

    Cost: one denoiser evaluation and one pseudo-inverse per step; ``travel_repeats`` times that with time travel. No
    gradients.

    References:
        Wang et al., Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model, 2023,
        https://arxiv.org/abs/2212.00490. Departures: time travel goes back one step at a time
        (:math:`l = 1`), and from :math:`x_s`, where the released code starts from :math:`\hat x_0` before its correction:
        with single steps that would undo the correction.
    """

    needs = ("linear", "exact")
    own_step = True
    op: LinearOperator

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, eta: float = 0.85, travel_repeats: int = 1) -> None:
        super().__init__(score, op, y)
        if not 0 <= eta <= 1 or travel_repeats < 1:
            raise ValueError(f"DDNM: expected 0 <= eta <= 1 and travel_repeats >= 1, got {eta} and {travel_repeats}.")
        self.eta, self.travel_repeats = eta, travel_repeats

    def posterior_mean(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.correct(self.score.denoise(x_t, t))

    def advance(self, rule: StepRule | None, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, *, strength: float = 1.0) -> Tensor:
        if rule is not None:
            return super().advance(rule, x_t, t, s, draw, strength=strength)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (map(float, self.score.schedule(time)) for time in (t, s))
        x_s = self._step(x_t, t, s, draw, strength)
        for _ in range(self.travel_repeats - 1 if sigma_s > 0 else 0):  # Without noise there is no way back.
            shrink = alpha_t / alpha_s
            x_t = shrink * x_s + math.sqrt(sigma_t**2 - (shrink * sigma_s) ** 2) * draw(x_t.shape[1:])
            x_s = self._step(x_t, t, s, draw, strength)
        return x_s

    def _step(self, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, strength: float) -> Tensor:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (map(float, self.score.schedule(time)) for time in (t, s))
        x0_hat = self.score.denoise(x_t, t)
        x0_y = torch.lerp(x0_hat, self.correct(x0_hat), strength)
        eps_hat = (x_t - alpha_t * x0_hat) / sigma_t
        return alpha_s * x0_y + sigma_s * (math.sqrt(1 - self.eta**2) * eps_hat + self.eta * draw(x_t.shape[1:]))

    def correct(self, x0: Tensor) -> Tensor:
        r"""Return :math:`x_0 + A^+ (y - A x_0)`, the point nearest to :math:`x_0` that fits the data."""
        return x0 + self.op.pinv(self.y - self.op(x0))


class DDNMPlus(Guidance):
    r"""DDNM for noisy data, in the spectral coordinates of :math:`A = U \operatorname{diag}(s) V^\top`.

    .. math:: \bar x_{s,i} = \alpha_s \big(\bar x_{0,i} + \lambda_i (\bar y_i - \bar x_{0,i})\big)
        + b_i \bar\varepsilon_i + c_i z_i, \qquad \bar x_0 = V^\top \hat x_0, \quad \bar y_i = (U^\top y)_i / s_i

    .. math:: (\lambda_i, b_i, c_i) = \begin{cases}
        \big(1,\; 0,\; \sqrt{\sigma_s^2 - \alpha_s^2 \nu_i^2}\big) & \varsigma_s \ge \nu_i = \sigma_y / s_i \\
        \big(\sqrt{1 - \eta^2}\, \varsigma_s / \nu_i,\; 0,\; \eta \sigma_s\big) & \varsigma_s < \nu_i \\
        \big(0,\; \sqrt{1 - \eta^2}\, \sigma_s,\; \eta \sigma_s\big) & s_i = 0 \end{cases}

    In the first two cases the noise of the data makes up the rest of :math:`\sigma_s^2`. As a sampler it is under-dispersed,
    and like DDNM it cannot choose the mode: prefer ``mmps`` where the spread has to be right.

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
    own_step = True
    follows_rules = False

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, eta: float = 0.85) -> None:
        super().__init__(score, op, y)
        if not 0 <= eta <= 1:
            raise ValueError(f"DDNM+: eta must lie in [0, 1], got {eta}.")
        self.eta, self.data = eta, SpectralData(op, y)

    def advance(self, rule: StepRule | None, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, *, strength: float = 1.0) -> Tensor:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (map(float, self.score.schedule(time)) for time in (t, s))
        data, kept = self.data, math.sqrt(1 - self.eta**2)
        x0_hat = self.score.denoise(x_t, t)
        x0_bar = data.svd.analyze(x0_hat)
        eps_bar = data.svd.analyze((x_t - alpha_t * x0_hat) / sigma_t)
        noise = draw(data.svd.shape)

        noisier = sigma_s >= alpha_s * data.noise
        shift = torch.where(noisier, 1, kept * sigma_s / (alpha_s * data.noise)) * (data.y_bar - x0_bar)
        fresh = torch.where(noisier, (sigma_s**2 - (alpha_s * data.noise) ** 2).clamp(min=0).sqrt(), self.eta * sigma_s)
        unconditional = alpha_s * x0_bar + sigma_s * (kept * eps_bar + self.eta * noise)
        conditional = alpha_s * (x0_bar + shift) + fresh * noise
        x_bar = torch.where(data.measured, torch.lerp(unconditional, conditional, strength), unconditional)
        return data.svd.synthesize(x_bar)
