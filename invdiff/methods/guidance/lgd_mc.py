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
    r"""The likelihood averaged over draws around :math:`\hat x_0`. ``op`` may be nonlinear; noise is required.

    .. math:: p(y | x_t) \approx \frac1n \sum_{i=1}^n p(y | \hat x_0 + r_t z_i), \quad z_i \sim \mathcal{N}(0, I), \qquad
        r_t^2 = \frac{\varsigma_t^2 v}{\varsigma_t^2 + v}

    .. math:: E[x_0 | x_t, y] \approx \hat x_0 + \frac{\sigma_t^2}{\alpha_t} J^\top \sum_i w_i\, A'(x_i)^\top
        \frac{y - A(x_i)}{\sigma_y^2}, \qquad x_i = \hat x_0 + r_t z_i, \quad w_i \propto p(y | x_i)

    With :math:`r_t = 0` this is ``dps-gaussian``. With infinitely many draws it is PiGDM, exact for
    :math:`\mathcal{N}(0, v I)`, but also for nonlinear operators. The number of draws needed grows exponentially with the
    measurement dimension: for images a single draw takes all the weight, and little is gained. The draws are part of the noise
    of the step, so only :meth:`step_mean` uses them; ``posterior_mean`` has no draws and returns the prior mean
    :math:`\hat x_0`.

    Args:
        score: The prior.
        op: The measurement; ``op.sigma_y`` is :math:`\sigma_y`.
        y: Measurement, ``(B, *op.out_shape)``.
        draws: Number of draws :math:`n \ge 1`.
        data_std: Standard deviation :math:`\sqrt v > 0` of the data.

    Cost: one denoiser evaluation, one vector-Jacobian product, and ``draws`` applications of the operator
    and of its adjoint.

    References:
        Song et al., Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation, 2023,
        https://proceedings.mlr.press/v202/song23k.html. Departures: the loss is the negative log likelihood,
        with no further scale; the shift is applied to the posterior mean, so any step rule can be used; it is limited where a
        step would overshoot (:func:`invdiff.methods.step_limit.limit_step`), less so as steps get smaller.
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
        """Return the posterior mean, with new draws, for a step that takes ``share`` of its shift."""
        shift, (measured, linear) = self.shift(at, draw((self.draws, *at.x_t.shape[1:]))), self.op.linearized(at.x0_hat)
        return at.x0_hat + limit_step(shift, linear, self.y - measured, share=share)

    def shift(self, at: Denoised, z: Tensor) -> Tensor:
        r"""Return the shift of :math:`\hat x_0` from the draws ``z``, ``(B, n, *event)``."""
        r_t = at.ratio * self.data_std / math.hypot(at.ratio, self.data_std)
        x = (at.x0_hat[:, None] + r_t * z).flatten(0, 1)  # Draws as rows, for the operator.
        op = self.op.take([b for b in range(len(z)) for _ in range(z.shape[1])])
        measured, linear = op.linearized(x)
        residual = self.y.repeat_interleave(z.shape[1], 0) - measured
        w = (-0.5 * (norm(residual) / op.sigma_y) ** 2).reshape(z.shape[:2]).softmax(1)
        gradients = linear.adjoint(residual / op.sigma_y**2).reshape(z.shape)
        return at.covariance((w.reshape(*w.shape, *(1,) * (z.ndim - 2)) * gradients).sum(1))


METHOD = Method(LGDMC, rule="ddpm", paper="Song et al., 2023, ICML")
