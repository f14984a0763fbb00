"""DPS: diffusion posterior sampling, as published."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.linalg import norm, over_items
from invdiff.methods.denoised import Denoised
from invdiff.methods.guidance.guidance import Correction
from invdiff.methods.method import Method, Preset
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["DPS"]


class DPS(Correction):
    r"""Diffusion posterior sampling. ``op`` may be nonlinear.

    .. math:: x_s = \mathrm{Step}(\hat x_0) - \zeta\, \nabla_{x_t} \lVert y - A(\hat x_0(x_t)) \rVert_2

    In the order of the paper's algorithm 1: denoise (:math:`\hat x_0`), take the unconditional step (DDPM in the paper), then
    subtract the gradient of the misfit. :math:`\mathrm{Step}(\hat x_0)` is the paper's :math:`x'_{i-1}`, and
    :math:`\zeta` times the gradient of the norm is its :math:`\zeta_i` times the gradient of the squared norm, with
    :math:`\zeta_i = \zeta' / \lVert y - A(\hat x_0) \rVert` and :math:`\zeta = 2 \zeta'`. The norm is taken per item.

    DPS is not a calibrated sampler: the spread of its samples depends on :math:`\zeta`, which does not transfer between
    problems and must grow like 1000 / steps. Use it to reproduce the published method, and prefer ``mmps`` otherwise. On
    schedules that do not preserve the variance, the gradient step is taken in the variance-preserving scaling
    :math:`x_t / \sqrt{\alpha_t^2 + \sigma_t^2}`, so that :math:`\zeta` keeps its meaning.

    Args:
        score: The prior.
        op: The measurement; its noise level is not used.
        y: Measurement, ``(B, *op.out_shape)``.
        zeta: Step size :math:`\zeta \ge 0` of the released code (twice the paper's :math:`\zeta'`).

    Cost: one denoiser evaluation and one vector-Jacobian product per step.

    References:
        Chung et al., Diffusion Posterior Sampling for General Noisy Inverse Problems, 2023, https://arxiv.org/abs/2209.14687,
        algorithm 1. Departures: the norm is per item, not over the batch; the denoiser is not clipped to [-1, 1], because
        a clipped value has no gradient.
    """

    any_noise = True  # The likelihood enters through the norm of the residual only.
    differentiates = True

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, zeta: float = 1.0) -> None:
        super().__init__(score, op, y)
        if not zeta >= 0:
            raise ValueError(f"DPS: zeta must not be negative, got {zeta}.")
        self.zeta = zeta

    def correct(self, x_s: Tensor, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        # zeta refers to the variance-preserving state x / scale. For such a schedule both scales are 1, and this is line 7 of
        # algorithm 1. Otherwise the chain rule gives the factor scale_t, and the change of the state at s the factor scale_s.
        scale_t, scale_s = math.hypot(at.alpha_t, at.sigma_t), math.hypot(*at.levels(s))
        return torch.sub(x_s, self.misfit_gradient(at), alpha=self.zeta * scale_s * scale_t)

    def misfit_gradient(self, at: Denoised) -> Tensor:
        r"""Return :math:`\nabla_{x_t} \lVert y - A(\hat x_0) \rVert_2`, and 0 where the misfit is 0."""
        measured, linear = self.op.linearized(at.x0_hat)
        residual = self.y - measured
        misfit = over_items(norm(residual), residual)
        unit = residual / torch.where(misfit == 0, -1, -misfit)
        return at.vjp(linear.adjoint(unit))


METHOD = Method(
    DPS,
    rule="ddpm",
    steps=1000,
    spacing="vp",
    paper="Chung et al., 2023, arXiv 2209.14687",
    presets={
        "mask": Preset(
            {"steps": 1000, "rule": "ddpm", "spacing": "vp", "zeta": 0.5},
            "authors' code, inpainting (30 to 70 % missing); 256 x 256, sigma_y 0.05",
        ),
        "blur": Preset(
            {"steps": 1000, "rule": "ddpm", "spacing": "vp", "zeta": 0.3},
            "authors' code, Gaussian and motion deblurring (61 px); 256 x 256, sigma_y 0.05",
        ),
        "downsample": Preset(
            {"steps": 1000, "rule": "ddpm", "spacing": "vp", "zeta": 0.3},
            "authors' code, super-resolution x4; 256 x 256, sigma_y 0.05",
        ),
        "nonlinear": Preset(
            {"steps": 1000, "rule": "ddpm", "spacing": "vp", "zeta": 0.3},
            "authors' code, nonlinear deblurring; 256 x 256, sigma_y 0.05. Its phase retrieval has zeta 1",
        ),
    },
)
