"""DPS as published."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.linalg import norm, over_items
from invdiff.methods.guidance.base import Guidance, StepRule, denoise_and_pull_back
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["DPS"]


class DPS(Guidance):
    r"""Diffusion posterior sampling. ``op`` may be nonlinear.

    .. math:: x_s = \mathrm{Step}(\hat x_0) - \zeta\, \nabla_{x_t} \lVert y - A(\hat x_0(x_t)) \rVert_2

    The step itself is unconditional; the push comes after it, with the norm of each item by itself. It is not a calibrated
    sampler: the spread of its samples depends on :math:`\zeta`, which does not transfer between problems and must grow
    like 1000 / steps. Prefer ``mmps`` unless the published method is what you want. On schedules that do not preserve the
    variance, the state is scaled to where it does, and the push acts there, so that :math:`\zeta` means the same.

    Args:
        score: The prior.
        op: The measurement; its noise level does not enter.
        y: Measurement, ``(B, *op.out_shape)``.
        zeta: Step size :math:`\zeta \ge 0` of the released code (twice the paper's :math:`\zeta'`).

    Cost: one denoiser evaluation and one vector-Jacobian product per step.

    References:
        Chung et al., Diffusion Posterior Sampling for General Noisy Inverse Problems, 2023, https://arxiv.org/abs/2209.14687,
        algorithm 1. Departures: the norm is per item, not over the batch; the denoiser is not clipped to [-1, 1], because
        a clipped value has no gradient.
    """

    any_noise = True  # It looks at the norm of the residual alone.

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, zeta: float = 1.0) -> None:
        super().__init__(score, op, y)
        if not zeta >= 0:
            raise ValueError(f"DPS: zeta must not be negative, got {zeta}.")
        self.zeta = zeta

    def advance(self, rule: StepRule | None, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, *, strength: float = 1.0) -> Tensor:
        if rule is None:
            raise ValueError("DPS has no step of its own: give a rule.")
        x0_hat, gradient = self.misfit_gradient(x_t, t)

        def mean(x: Tensor, time: Tensor) -> Tensor:
            return x0_hat if x is x_t else self.posterior_mean(x, time)

        x_s = rule(mean, self.score.schedule, x_t, t, s, draw(x_t.shape[1:]))
        # zeta belongs to a variance-preserving state, x / scale. On such a schedule both scales are 1.
        scale_t, scale_s = (torch.hypot(*self.score.levels(time, x_t)) for time in (t, s))
        return x_s - strength * self.zeta * scale_s * scale_t * gradient

    def misfit_gradient(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return :math:`\hat x_0` and :math:`\nabla_{x_t} \lVert y - A(\hat x_0) \rVert_2`."""
        x0_hat, pull_back = denoise_and_pull_back(self.score, x_t, t)
        with torch.enable_grad():
            x0 = x0_hat.requires_grad_()
            misfit = norm(self.y - self.op(x0))
            (gradient,) = torch.autograd.grad(misfit.sum(), x0)
        # The norm has no gradient where it is zero, and there is nothing to push there.
        gradient = torch.where(over_items(misfit == 0, gradient), 0, gradient)
        return x0_hat.detach(), pull_back(gradient)
