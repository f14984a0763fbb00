"""MCG: manifold constrained gradient."""

from __future__ import annotations

from torch import Tensor

from invdiff.methods.guidance.base import Guidance, StepRule
from invdiff.methods.guidance.dps import DPS
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["MCG"]


class MCG(Guidance):
    r"""The gradient of DPS after every step, and then a projection onto the noised measurement. ``op`` must be linear.

    .. math:: x_s'' = \mathrm{Step}(\hat x_0) - \zeta\, \nabla_{x_t} \lVert y - A \hat x_0 \rVert_2, \qquad
        x_s = x_s'' + A^+ (y_s - A x_s''), \qquad y_s = \alpha_s y + \sigma_s A z

    The last step sets :math:`A x_0 = y`: meant for exact data. The noise of a noisy measurement ends up in the samples; DPS is
    this method without the projection.

    Args:
        score: The prior.
        op: A linear operator; its noise level does not enter.
        y: Measurement, ``(B, *op.out_shape)``.
        zeta: Step size :math:`\zeta \ge 0` of the released code, as in DPS.

    Cost: one denoiser evaluation, one vector-Jacobian product and one pseudo-inverse.

    References:
        Chung et al., Improving Diffusion Models for Inverse Problems using Manifold Constraints, 2022,
        https://arxiv.org/abs/2206.00941, with :math:`W = I`. Departures: :math:`y_s` has the noise of the step's end, where the
        code takes that of its beginning; the pseudo-inverse projects, not the adjoint, which does so for orthonormal rows
        only; and those of :class:`~invdiff.methods.guidance.DPS`.
    """

    needs = ("linear",)
    op: LinearOperator

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, zeta: float = 1.0) -> None:
        super().__init__(score, op, y)
        if not zeta >= 0:
            raise ValueError(f"MCG: zeta must not be negative, got {zeta}.")
        self.gradient_step = DPS(score, op, y, zeta=zeta)

    def advance(self, rule: StepRule | None, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, *, strength: float = 1.0) -> Tensor:
        if rule is None:
            raise ValueError("MCG has no step of its own: give a rule.")
        x_s = self.gradient_step.advance(rule, x_t, t, s, draw, strength=strength)
        alpha_s, sigma_s = self.score.levels(s, x_t)
        y_s = alpha_s * self.y + sigma_s * self.op(draw(x_t.shape[1:]))
        return x_s + strength * self.op.pinv(y_s - self.op(x_s))
