"""RED-diff: one point estimate, regularized by denoising."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.linalg import over_items
from invdiff.methods.denoised import Denoised
from invdiff.methods.divergence import EXPLOSION, BoundsCheck
from invdiff.methods.method import Method, Preset
from invdiff.methods.on_step import OnStep
from invdiff.methods.samplers.sampler import Sampler
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel
from invdiff.random import Streams

__all__ = ["REDDiff"]


class REDDiff(Sampler):
    r"""Variational and mode-seeking: a Gaussian of zero variance is fitted to the posterior. ``op`` may be nonlinear.

    One Adam step on :math:`\mu` per level, with :math:`x_t = \alpha_t \mu + \sigma_t \varepsilon` and the loss below, where the
    bracket is held constant (stop-gradient), :math:`d_y` is the measurement dimension and :math:`n` the number of entries of
    ``x``:

    .. math:: L = \frac{1}{2 d_y} \lVert y - A(\mu) \rVert^2 + \frac{\lambda \varsigma_t^p}{n}
        \big\langle [\hat\varepsilon(x_t) - \varepsilon],\, \mu \big\rangle

    The result is **a point estimate**: samples differ only through the noise of the optimization, and their spread has no
    meaning. The noise level of the measurement is not used; :math:`\lambda` takes its place and must be tuned.

    Args:
        score: The prior.
        op: The measurement.
        y: Measurement, ``(B, *op.out_shape)``.
        weight: Regularization weight :math:`\lambda \ge 0`.
        power: Exponent :math:`p`; 1 weights a level by the square root of 1 / SNR.
        lr: Step size of Adam, in the units of ``x``.

    Cost: one denoiser evaluation per level, no gradient of the network, and one gradient of ``op``.

    References:
        Mardani et al., A Variational Perspective on Solving Inverse Problems with Diffusion Models, 2024,
        https://arxiv.org/abs/2305.04391, algorithm 1. Departure: nonlinear operators have no pseudo-inverse for the
        initial value, and start at zero.
    """

    def __init__(
        self, score: ScoreModel, op: Operator, y: Tensor, *, weight: float = 0.25, power: float = 1.0, lr: float = 0.1
    ) -> None:
        super().__init__(score, op, y)
        if not (weight >= 0 and lr > 0):
            raise ValueError(f"RED-diff: expected weight >= 0 and lr > 0, got {weight} and {lr}.")
        self.weight, self.power, self.lr = weight, power, lr

    @torch.no_grad()
    def sample(self, times: Tensor, *, streams: Streams, on_step: OnStep) -> Tensor:
        check = BoundsCheck(self.y.device)
        op, y = self.op, self.y
        mu = op.pinv(y).clone() if isinstance(op, LinearOperator) else y.new_zeros(len(y), *op.in_shape)
        adam = torch.optim.Adam([mu], lr=self.lr, betas=(0.9, 0.99))  # Adam acts entrywise: items are independent.
        dof = over_items(torch.as_tensor(op.dof, device=y.device), mu)
        for step, t in enumerate(times[:-1]):
            alpha_t, sigma_t = map(float, self.score.schedule(t))
            noise = streams.normal(op.in_shape, dtype=y.dtype)
            at = Denoised(self.score, alpha_t * mu + sigma_t * noise, t)
            eps_hat = (at.x_t - alpha_t * at.x0_hat) / sigma_t
            measured, linear = op.linearized(mu)
            data_gradient = linear.adjoint(measured - y) / dof
            del linear  # and its graph, before the network is evaluated again
            mu.grad = data_gradient + self.weight * at.ratio**self.power * (eps_hat - noise) / mu[0].numel()
            adam.step()
            check(mu, bound=EXPLOSION, step=step + 1)
            on_step(mu.detach(), at.x0_hat)
        check.finish()
        return mu.detach()


METHOD = Method(
    REDDiff,
    spacing="vp",
    paper="Mardani et al., 2024, arXiv 2305.04391",
    presets={
        "any": Preset(
            {"steps": 100, "spacing": "vp", "weight": 0.25, "power": 1.0, "lr": 0.1},
            "Mardani et al., 2024: the released _configs/algo/reddiff.yaml; steps as recalled (1000 in the paper)",
        ),
    },
)
