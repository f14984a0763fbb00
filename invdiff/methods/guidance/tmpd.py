"""TMPD: Tweedie moment projection."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.methods.denoised import Denoised
from invdiff.methods.guidance.guidance import ConditionalDenoiser
from invdiff.methods.method import Method, Preset

__all__ = ["TMPD"]


class TMPD(ConditionalDenoiser):
    r"""Gaussian guidance with the row sums of Tweedie's covariance. ``op`` may be nonlinear; it is then linearized.

    .. math:: E[x_0 | x_t, y] \approx \hat x_0 + V_t A^\top \frac{y - A \hat x_0}{\sigma_y^2 + d}, \qquad
        d = \max(A V_t A^\top \mathbf{1},\, 0), \quad V_t = \mathrm{Cov}[x_0 | x_t] = \frac{\sigma_t^2}{\alpha_t} J

    Exact where :math:`A V_t A^\top` is diagonal. Otherwise its row sums replace the matrix; with negative correlations they may
    vanish, and the step overshoots: prefer ``mmps``. An entry with neither noise nor variance has no effect.

    Args:
        score: The prior.
        op: The measurement; ``op.sigma_y`` is :math:`\sigma_y`.
        y: Measurement, ``(B, *op.out_shape)``.

    Cost: one denoiser evaluation and two vector-Jacobian products.

    References:
        Boys et al., Tweedie Moment Projected Diffusions for Inverse Problems, 2023, https://arxiv.org/abs/2310.06721, with
        the row sums of its code. Departures: negative row sums are set to 0; the shift is applied to the posterior mean, so
        any step rule can be used (``ddpm`` gives the ancestral step of the authors' code).
    """

    differentiates = True

    def posterior_mean(self, at: Denoised) -> Tensor:
        measured, linear = self.op.linearized(at.x0_hat)
        d = linear(at.covariance(linear.adjoint(torch.ones_like(self.y)))).clamp(min=0)
        variance = self.op.sigma_y**2 + d
        # Entries outside a mask, and exact data where d = 0, would give 0 / 0.
        known = variance > 0
        w = torch.where(known, (self.y - measured) / torch.where(known, variance, 1), 0)
        return at.x0_hat + at.covariance(linear.adjoint(w))


METHOD = Method(
    TMPD,
    rule="ddpm",
    paper="Boys et al., 2023, arXiv 2310.06721",
    presets={
        "any": Preset(
            {"steps": 1000, "rule": "ddpm", "spacing": "vp"},
            "one ancestral step for each level of the network, as in the authors' code; 1000 levels as recalled",
        ),
    },
)
