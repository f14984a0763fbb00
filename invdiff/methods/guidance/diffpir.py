"""DiffPIR: half-quadratic splitting along the reverse diffusion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.linalg import norm, over_items
from invdiff.methods.denoised import Denoised
from invdiff.methods.guidance.guidance import ConditionalDenoiser, Transition
from invdiff.methods.method import Method, Preset
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["DiffPIR"]


class DiffPIR(Transition, ConditionalDenoiser):
    r"""Plug-and-play restoration: a proximal step toward the data after every denoising. ``op`` may be nonlinear.

    .. math:: \hat x_0' = \arg\min_x \lVert y - A(x) \rVert^2 + \rho_t \lVert x - \hat x_0 \rVert^2, \qquad
        \rho_t = \lambda \sigma_y^2 / \varsigma_t^2

    .. math:: x_s = \alpha_s \hat x_0' + \sigma_s \big(\sqrt{1 - \zeta}\, \hat\varepsilon' + \sqrt{\zeta}\, z\big), \qquad
        \hat\varepsilon' = \frac{x_t - \alpha_t \hat x_0'}{\sigma_t}

    The minimizer has a closed form for a linear operator. For a nonlinear one it is approximated by gradient descent, with the
    Gauss-Newton step length, halved for an item whenever a step would increase its objective.

    Without the denoiser's Jacobian the data change measured directions only, and of several modes the wrong one is often kept,
    for any :math:`\lambda`. Prefer ``mmps`` where the posterior spread matters.

    Args:
        score: The prior.
        op: The measurement; ``op.sigma_y`` is :math:`\sigma_y`.
        y: Measurement, ``(B, *op.out_shape)``.
        lam: Trust :math:`\lambda > 0` in the denoiser. At 1, :math:`\hat x_0'` is the mode of :math:`x_0` given :math:`y`
            under :math:`\mathcal{N}(\hat x_0, \varsigma_t^2 I)`.
        zeta: Share :math:`\zeta` of fresh noise in [0, 1], in the method's own step.
        sigma_min: Lower bound :math:`> 0` on :math:`\sigma_y`, in the units of ``y``, used for exact data.
        iterations: Gradient steps for nonlinear operators, at least 1.

    Cost: one denoiser evaluation and one proximal step; for a nonlinear operator ``iterations`` times three evaluations or
    products of it. No gradients of the network.

    References:
        Zhu et al., Denoising Diffusion Models for Plug-and-Play Image Restoration, 2023, https://arxiv.org/abs/2305.08995,
        algorithm 1. Departures: several safeguarded gradient steps for nonlinear operators instead of one; the proximal step
        is taken at the last level too, as in the paper and not in the released code. That code compares :math:`\sigma_y` on
        the scale [0, 1] with :math:`\varsigma_t` on [-1, 1]: its :math:`\lambda` is four times the one here.
    """

    in_windows = True

    def __init__(
        self,
        score: ScoreModel,
        op: Operator,
        y: Tensor,
        *,
        lam: float = 1.0,
        zeta: float = 0.3,
        sigma_min: float = 0.002,
        iterations: int = 20,
    ) -> None:
        super().__init__(score, op, y)
        if not lam > 0 or not 0 <= zeta <= 1 or not sigma_min > 0 or iterations < 1:
            raise ValueError(
                "DiffPIR: expected lam > 0, 0 <= zeta <= 1, sigma_min > 0 and iterations >= 1, "
                f"got {lam}, {zeta}, {sigma_min}, {iterations}."
            )
        self.lam, self.zeta, self.sigma_min, self.iterations = lam, zeta, sigma_min, iterations
        self.sigma_y = max(op.sigma_y, sigma_min)

    def posterior_mean(self, at: Denoised) -> Tensor:
        return self.closest(at.x0_hat, at.ratio)

    def transition(self, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        alpha_s, sigma_s = at.levels(s)
        x0_y = self.posterior_mean(at)
        z = draw(at.x_t.shape[1:])
        # alpha_s x0_y + sigma_s (sqrt(1 - zeta) eps_hat + sqrt(zeta) z) with eps_hat = (x_t - alpha_t x0_y) / sigma_t
        share = sigma_s * math.sqrt(1 - self.zeta) / at.sigma_t
        x_s = ((alpha_s - share * at.alpha_t) * x0_y).add_(at.x_t, alpha=share)
        return x_s.add_(z, alpha=sigma_s * math.sqrt(self.zeta))

    def closest(self, x0_hat: Tensor, ratio_t: float) -> Tensor:
        r"""Return :math:`\arg\min_x \lVert y - A(x) \rVert^2 + \rho_t \lVert x - \hat x_0 \rVert^2`, shaped like ``x0_hat``."""
        rho_t = self.lam * (self.sigma_y / ratio_t) ** 2
        if isinstance(self.op, LinearOperator):
            return self.op.prox(x0_hat, self.y, rho_t)

        def objective(x: Tensor) -> Tensor:
            return norm(self.y - self.op(x)) ** 2 + rho_t * norm(x - x0_hat) ** 2

        value, share = objective(x0_hat), x0_hat.new_ones(len(x0_hat))
        # No trial is better than NaN: return NaN rather than silently ignore the measurement.
        x = torch.where(over_items(value.isfinite(), x0_hat), x0_hat, torch.nan)
        for _ in range(self.iterations):
            measured, linear = self.op.linearized(x)
            gradient = rho_t * (x - x0_hat) - linear.adjoint(self.y - measured)
            curvature = norm(linear(gradient)) ** 2 + rho_t * norm(gradient) ** 2
            trial = x - over_items(share * norm(gradient) ** 2 / curvature, x) * gradient
            # At a zero gradient the trial is NaN and is rejected: the item keeps its value.
            trial_value = objective(trial)
            better = trial_value <= value
            x, value = torch.where(over_items(better, x), trial, x), torch.where(better, trial_value, value)
            share = torch.where(better, (2 * share).clamp(max=1), share / 2)
        return x


# lambda of the released code, divided by 4: the code compares sigma_y on [0, 1] with noise levels on [-1, 1].
_SOURCE = "of the released code of Zhu et al., 2023; its lambda / 4 (sigma_y on [0, 1], levels on [-1, 1]); log-SNR steps"

METHOD = Method(
    DiffPIR,
    paper="Zhu et al., 2023, arXiv 2305.08995",
    presets={
        "blur": Preset({"steps": 100, "lam": 0.25, "zeta": 0.1}, f"configs/deblur.yaml {_SOURCE}"),
        "downsample": Preset({"steps": 100, "lam": 0.25, "zeta": 0.1}, f"configs/sisr.yaml {_SOURCE}"),
        "mask": Preset({"steps": 20, "lam": 0.25, "zeta": 1.0}, f"configs/inpaint.yaml {_SOURCE}"),
    },
)
