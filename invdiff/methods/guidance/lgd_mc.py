"""LGD-MC: loss-guided diffusion with Monte Carlo draws."""

from __future__ import annotations

from torch import Tensor

from invdiff.linalg import norm
from invdiff.methods.guidance.base import Guidance, StepRule, denoise_and_pull_back
from invdiff.methods.step_limit import hold_back
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["LGDMC"]


class LGDMC(Guidance):
    r"""The likelihood averaged over draws around :math:`\hat x_0`. ``op`` may be nonlinear; noise is needed.

    .. math:: p(y | x_t) \approx \frac1n \sum_{i=1}^n p(y | \hat x_0 + r_t z_i), \quad z_i \sim \mathcal{N}(0, I), \qquad
        r_t^2 = \frac{\varsigma_t^2 v}{\varsigma_t^2 + v}

    .. math:: E[x_0 | x_t, y] \approx \hat x_0 + \frac{\sigma_t^2}{\alpha_t} J^\top \sum_i w_i\, A'(x_i)^\top
        \frac{y - A(x_i)}{\sigma_y^2}, \qquad x_i = \hat x_0 + r_t z_i, \quad w_i \propto p(y | x_i)

    With :math:`r_t = 0` it is ``dps-gaussian``; with infinitely many draws PiGDM, exact for :math:`\mathcal{N}(0, v I)`, but
    for nonlinear operators too. The number needed grows exponentially with that of measured values: for images a single draw
    takes all the weight, and little is gained. The draws are noise of the step: :meth:`shift` has them from ``advance``,
    while ``posterior_mean``, which has none, is that of the prior.

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
        with no further scale; the shift enters the posterior mean, and with it any step rule; steps hold it back where they
        would overshoot (:func:`invdiff.methods.step_limit.hold_back`), ever less as they grow in number.
    """

    needs = ("noise",)

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, draws: int = 10, data_std: float = 1.0) -> None:
        super().__init__(score, op, y)
        if draws < 1 or not data_std > 0:
            raise ValueError(f"LGDMC: expected draws >= 1 and data_std > 0, got {draws} and {data_std}.")
        self.draws, self.variance = draws, data_std**2

    def advance(self, rule: StepRule | None, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, *, strength: float = 1.0) -> Tensor:
        if rule is None:
            raise ValueError("LGDMC has no step of its own: give a rule.")
        share = 1 - float(self.score.schedule.ratio(s) / self.score.schedule.ratio(t)) ** 2
        noise = draw(x_t.shape[1:])

        def mean(x: Tensor, time: Tensor) -> Tensor:
            x0_hat, shift = self.shift(x, time, draw((self.draws, *x.shape[1:])))
            return x0_hat + strength * hold_back(shift, self.op, x0_hat, self.y - self.op(x0_hat), share=share)

        return rule(mean, self.score.schedule, x_t, t, s, noise)

    def shift(self, x_t: Tensor, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return :math:`\hat x_0` and what the draws ``z``, ``(B, n, *event)``, add to it."""
        alpha_t, sigma_t = self.score.levels(t, x_t)
        ratio = (sigma_t / alpha_t) ** 2
        r_t = (ratio * self.variance / (ratio + self.variance)).sqrt()
        x0_hat, pull_back = denoise_and_pull_back(self.score, x_t, t)

        x = (x0_hat[:, None] + r_t * z).flatten(0, 1)  # Draws as rows, for the operator.
        op = self.op.take([b for b in range(len(z)) for _ in range(z.shape[1])])
        residual = self.y.repeat_interleave(z.shape[1], 0) - op(x)
        log_p = -0.5 * (norm(residual) / op.sigma_y) ** 2
        w = log_p.reshape(z.shape[:2]).softmax(1)
        gradients = op.jacobian(x).adjoint(residual / op.sigma_y**2).reshape(z.shape)
        gradient = (w.reshape(*w.shape, *(1,) * (z.ndim - 2)) * gradients).sum(1)
        return x0_hat, sigma_t**2 / alpha_t * pull_back(gradient)
