"""Score-ALD: the likelihood score of annealed Langevin dynamics."""

from __future__ import annotations

from torch import Tensor

from invdiff.methods.denoised import Denoised
from invdiff.methods.guidance.guidance import ConditionalDenoiser
from invdiff.methods.method import Method
from invdiff.methods.operator_norm import operator_norm
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel

__all__ = ["ScoreALD"]


class ScoreALD(ConditionalDenoiser):
    r"""The likelihood at the noisy state, with annealed noise: no gradient of the network. ``op`` may be nonlinear.

    .. math:: E[x_0 | x_t, y] \approx \hat x_0 + \varsigma_t^2 A'(z_t)^\top \frac{y - A(z_t)}{\sigma_y^2 + \gamma_t^2},
        \qquad z_t = \frac{x_t}{\alpha_t}, \quad \gamma_t = \gamma\, \lVert A \rVert\, \varsigma_t

    For :math:`A A^\top = \lVert A \rVert^2 I` and :math:`\gamma = 1` this is DMPS, exact for a flat prior; for other operators
    the shift is too small in the directions of small singular values. The norm of a nonlinear operator is taken to be 1.

    Args:
        score: The prior.
        op: The measurement; ``op.sigma_y`` is :math:`\sigma_y`.
        y: Measurement, ``(B, *op.out_shape)``.
        gamma: Scale :math:`\gamma > 0` of the annealed noise. Below :math:`\sqrt{1/2}` the steps are unstable.

    Cost: one denoiser evaluation.

    References:
        Jalal et al., Robust Compressed Sensing MRI with Deep Generative Priors, 2021, https://arxiv.org/abs/2108.01368.
        Departures: the paper leaves :math:`\gamma_t` to tuning, and its code uses :math:`\varsigma_t` in place of
        :math:`(\sigma_y^2 + \gamma_t^2)^{1/2}`, for operators of norm 1; here the norm of the operator makes :math:`\gamma`
        independent of units. The loop of the paper is the method ``langevin``; this is its likelihood with any step rule.
    """

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, gamma: float = 1.0) -> None:
        super().__init__(score, op, y)
        if not gamma > 0:
            raise ValueError(f"ScoreALD: gamma must be positive, got {gamma}.")
        self.gamma, self.scale = gamma, gamma * operator_norm(op, y) if isinstance(op, LinearOperator) else gamma

    def posterior_mean(self, at: Denoised) -> Tensor:
        z_t = at.x_t / at.alpha_t
        w = (self.y - self.op(z_t)) / (self.op.sigma_y**2 + (self.scale * at.ratio) ** 2)
        return at.x0_hat + at.ratio**2 * self.op.jacobian(z_t).adjoint(w)


METHOD = Method(ScoreALD, rule="ddpm", paper="Jalal et al., 2021, arXiv 2108.01368")
