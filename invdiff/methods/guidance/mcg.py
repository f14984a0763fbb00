"""MCG: manifold constrained gradient."""

from __future__ import annotations

from torch import Tensor

from invdiff.methods.denoised import Denoised
from invdiff.methods.guidance.dps import DPS
from invdiff.methods.guidance.guidance import Correction
from invdiff.methods.method import Method, Preset
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["MCG"]


class MCG(Correction):
    r"""The gradient step of DPS, followed by a projection onto the noised measurement. ``op`` must be linear.

    .. math:: x_s'' = \mathrm{Step}(\hat x_0) - \zeta\, \nabla_{x_t} \lVert y - A \hat x_0 \rVert_2, \qquad
        x_s = x_s'' + A^+ (y_s - A x_s''), \qquad y_s = \alpha_s y + \sigma_s A z

    The last step sets :math:`A x_0 = y`, so the method is meant for exact data: the noise of a noisy measurement would be
    reproduced in the samples. DPS is this method without the projection.

    Args:
        score: The prior.
        op: A linear operator; its noise level is not used.
        y: Measurement, ``(B, *op.out_shape)``.
        zeta: Step size :math:`\zeta \ge 0` of the released code, as in DPS.

    Cost: one denoiser evaluation, one vector-Jacobian product and one pseudo-inverse.

    References:
        Chung et al., Improving Diffusion Models for Inverse Problems using Manifold Constraints, 2022,
        https://arxiv.org/abs/2206.00941, with :math:`W = I`. Departures: :math:`y_s` has the noise level at the end of the
        step, where the code uses that at its beginning; the projection uses the pseudo-inverse instead of the adjoint, which
        projects only for orthonormal rows; and the departures of :class:`~invdiff.methods.guidance.DPS`.
    """

    needs = ("linear",)
    differentiates = True
    op: LinearOperator

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, zeta: float = 1.0) -> None:
        super().__init__(score, op, y)
        if not zeta >= 0:
            raise ValueError(f"MCG: zeta must not be negative, got {zeta}.")
        self.zeta, self.gradient_step = zeta, DPS(score, op, y, zeta=zeta)

    def correct(self, x_s: Tensor, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        x_s = self.gradient_step.correct(x_s, at, s, draw)
        alpha_s, sigma_s = at.levels(s)
        y_s = alpha_s * self.y + sigma_s * self.op(draw(x_s.shape[1:]))
        return x_s + self.op.pinv(y_s - self.op(x_s))


METHOD = Method(
    MCG,
    rule="ddpm",
    steps=1000,
    spacing="vp",
    paper="Chung et al., 2022, arXiv 2206.00941",
    presets={
        "mask": Preset(
            {"steps": 1000, "rule": "ddpm", "spacing": "vp", "zeta": 1.0},
            "authors' code, inpainting: the gradient of the norm with weight 1; 256 x 256, exact data; 1000 steps as recalled",
        ),
    },
)
