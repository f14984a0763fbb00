"""LGD-MC: loss-guided diffusion with Monte Carlo draws."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from invdiff.linalg import norm
from invdiff.methods.denoised import Denoised, PosteriorMean
from invdiff.methods.guidance.guidance import ConditionalDenoiser
from invdiff.methods.method import Method
from invdiff.methods.step_limit import limit_step, share_of_step
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["LGDMC"]


class LGDMC(ConditionalDenoiser):
    r"""The likelihood averaged over draws around :math:`\hat x_0`. ``op`` may be nonlinear; noise is needed.

    .. math:: p(y | x_t) \approx \frac1n \sum_{i=1}^n p(y | \hat x_0 + r_t z_i), \quad z_i \sim \mathcal{N}(0, I), \qquad
        r_t^2 = \frac{\varsigma_t^2 v}{\varsigma_t^2 + v}

    .. math:: E[x_0 | x_t, y] \approx \hat x_0 + \frac{\sigma_t^2}{\alpha_t} J^\top \sum_i w_i\, A'(x_i)^\top
        \frac{y - A(x_i)}{\sigma_y^2}, \qquad x_i = \hat x_0 + r_t z_i, \quad w_i \propto p(y | x_i)

    With :math:`r_t = 0` it is ``dps-gaussian``; with infinitely many draws PiGDM, exact for :math:`\mathcal{N}(0, v I)`, but
    for nonlinear operators too. The number needed grows exponentially with that of measured values: for images a single draw
    takes all the weight, and little is gained. The draws are noise of the step, so
    only :meth:`step_mean` has them; ``posterior_mean``, which has none, is that of the prior.

    Args:
        score: The prior.
        op: The measurement; ``op.sigma_y`` is :math:`\sigma_y`.
        y: Measurement, ``(B, *op.out_shape)``.
        draws: :math:`n \ge 1`.
        data_std: Standard deviation :math:`\sqrt v > 0` of the data.

    Cost: one denoiser evaluation, one vector-Jacobian product, and ``draws`` operators and adjoints.

    References:
        Song et al., Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation, 2023,
        https://proceedings.mlr.press/v202/song23k.html. Departures: the loss is the negative log likelihood,
        with no further scale; the shift enters the posterior mean, and with it any step rule; it is limited where a step
        would overshoot (:func:`invdiff.methods.step_limit.limit_step`), ever less as steps get smaller.
    """

    needs = ("noise",)
    differentiates = True

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, draws: int = 10, data_std: float = 1.0) -> None:
        super().__init__(score, op, y)
        if draws < 1 or not data_std > 0:
            raise ValueError(f"LGDMC: expected draws >= 1 and data_std > 0, got {draws} and {data_std}.")
        self.draws, self.data_std = draws, data_std

    def posterior_mean(self, at: Denoised) -> Tensor:
        return at.x0_hat

    def step_mean(self, at: Denoised, s: Tensor, draw: Draw) -> PosteriorMean:
        return partial(self.limited_mean, share=share_of_step(at, s), draw=draw)

    def limited_mean(self, at: Denoised, *, share: float, draw: Draw) -> Tensor:
        """Return the posterior mean, with draws of its own, for a step that takes ``share`` of its shift."""
        shift, residual = self.shift(at, draw((self.draws, *at.x_t.shape[1:]))), self.y - self.op(at.x0_hat)
        return at.x0_hat + limit_step(shift, self.op, at.x0_hat, residual, share=share)

    def shift(self, at: Denoised, z: Tensor) -> Tensor:
        r"""Return what the draws ``z``, ``(B, n, *event)``, add to :math:`\hat x_0`."""
        r_t = at.ratio * self.data_std / math.hypot(at.ratio, self.data_std)
        x = (at.x0_hat[:, None] + r_t * z).flatten(0, 1)  # Draws as rows, for the operator.
        op = self.op.take([b for b in range(len(z)) for _ in range(z.shape[1])])
        residual = self.y.repeat_interleave(z.shape[1], 0) - op(x)
        w = (-0.5 * (norm(residual) / op.sigma_y) ** 2).reshape(z.shape[:2]).softmax(1)
        gradients = op.jacobian(x).adjoint(residual / op.sigma_y**2).reshape(z.shape)
        return at.covariance((w.reshape(*w.shape, *(1,) * (z.ndim - 2)) * gradients).sum(1))


METHOD = Method(LGDMC, rule="ddpm", paper="Song et al., 2023, ICML")
