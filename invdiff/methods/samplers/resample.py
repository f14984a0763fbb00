"""ReSample: hard data consistency under a latent prior, and a return to the noisy codes by resampling."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from invdiff.linalg import dot, norm, over_items
from invdiff.methods.denoised import Denoised
from invdiff.methods.divergence import EXPLOSION, BoundsCheck
from invdiff.methods.method import Method, Preset
from invdiff.methods.on_step import OnStep
from invdiff.methods.samplers.sampler import Sampler
from invdiff.operators import LinearOperator, Operator
from invdiff.operators.algebra.decoded import measured_image
from invdiff.priors import ScoreModel
from invdiff.random import Streams

__all__ = ["ReSample"]

LOG_RHO, BISECTIONS = (-18.0, 18.0), 18  # range of the logarithm of rho, in units of squared singular values


class ReSample(Sampler):
    r"""DDIM steps; every few of them, the denoised code is made consistent with the data and noised again.

    .. math:: \hat z_0(y) \in \arg\min_z \lVert y - A D(z) \rVert^2 \ \text{ from } \hat z_0, \qquad
        z_s = w\, \alpha_s \hat z_0(y) + (1 - w)\, z_s' + \sqrt{w}\, \sigma_s \varepsilon, \qquad
        w = \frac{\gamma \kappa}{1 + \gamma \kappa}, \quad \kappa = \varsigma_t^2 - \varsigma_s^2

    where :math:`z_s'` is the result of the unconditional step. In the paper's symbols,
    :math:`\sigma_t^2 = \gamma (1 - \bar\alpha_{t-1}) / \bar\alpha_t\, (1 - \bar\alpha_t / \bar\alpha_{t-1})` is the
    variance of its Gaussian for :math:`z_t'` given the clean code, and :math:`z_s` the draw from the product with
    :math:`\mathcal{N}(\alpha_s \hat z_0(y), \sigma_s^2 I)`. The first third of the steps is unconditional. In the second the
    image is fitted to the data and encoded; in the last third, and at the end, the code is fitted. Both fits stop
    where the residual is no larger than the noise, :math:`\sqrt{\dim y}\, \sigma_y`. The spread of the samples has no
    calibrated meaning.

    Args:
        score: The prior of codes.
        op: The measurement of decoded images, linear in the image; its ``sigma_y`` is :math:`\sigma_y`.
        y: Measurement, ``(B, *op.out_shape)``.
        every: Steps from one fit to the next, at least 1.
        iterations: Conjugate-gradient steps of a fit by the code, at least 1.
        gamma: :math:`\gamma > 0`: the larger, the less of the unconditional step is kept.

    Cost: one denoiser evaluation per step, no gradient of the network; for a fit by the image 19 proximal steps, a decoding
    and an encoding; for one by the code ``iterations`` times three evaluations or products of ``op``.

    References:
        Song et al., Solving Inverse Problems with Latent Diffusion Models via Hard Data Consistency, 2024,
        https://arxiv.org/abs/2307.08123, algorithm 1. Departures: the image is moved by a
        proximal step to the level of the noise, instead of by AdamW; the code by conjugate gradients with steps of
        the Gauss-Newton length, halved for an item whenever one would increase its misfit; the last step always fits. The
        released code also takes steps of DPS and of time travel, and divides by :math:`1 - \bar\alpha_t` in place of
        :math:`\bar\alpha_t`, where :math:`\kappa = 1 - \varsigma_s^2 / \varsigma_t^2`.
    """

    needs = ("latent", "linear-image", "encoder")
    one_operator = True

    def __init__(
        self, score: ScoreModel, op: Operator, y: Tensor, *, every: int = 10, iterations: int = 30, gamma: float = 40.0
    ) -> None:
        super().__init__(score, op, y)
        if every < 1 or iterations < 1 or not gamma > 0:
            raise ValueError(
                f"ReSample: expected every and iterations of at least 1, and gamma > 0, got {every}, {iterations} and {gamma}."
            )
        parts = measured_image(op)
        assert parts is not None
        assert isinstance(parts.image, LinearOperator)
        self.every, self.iterations, self.gamma, self.parts, self.image = every, iterations, gamma, parts, parts.image
        self.tolerance = math.sqrt(float(op.dof)) * op.sigma_y

    @torch.no_grad()
    def sample(self, times: Tensor, *, streams: Streams, on_step: OnStep) -> Tensor:
        check, schedule, steps = BoundsCheck(self.y.device), self.score.schedule, len(times) - 1
        event, dtype = self.op.in_shape, self.y.dtype
        z_t = schedule.levels(times[0])[1] * streams.normal(event, dtype=dtype)
        for step, (t, s) in enumerate(itertools.pairwise(times), start=1):
            at = Denoised(self.score, z_t, t)
            alpha_s, sigma_s = at.levels(s)
            z_s = alpha_s * at.x0_hat + sigma_s / at.sigma_t * (z_t - at.alpha_t * at.x0_hat)
            third = 3 * (step - 1) // steps
            if step == steps or (third > 0 and step % self.every == 0):
                fitted = self.by_image(at.x0_hat) if third == 1 and step < steps else self.by_code(at.x0_hat)
                pull = self.gamma * (at.ratio**2 - (sigma_s / alpha_s) ** 2)
                w = pull / (1 + pull) if sigma_s > 0 else 1.0
                noise = streams.normal(event, dtype=dtype)
                z_s = w * alpha_s * fitted + (1 - w) * z_s + math.sqrt(w) * sigma_s * noise
            z_t = z_s
            check(z_t, bound=EXPLOSION * (1 + sigma_s), step=step)
            on_step(z_t, at.x0_hat)
        check.finish()
        return z_t

    def by_image(self, z: Tensor) -> Tensor:
        r"""Return the code of the image nearest to :math:`D(z)` whose residual is that of the noise.

        It is :math:`\arg\min_x \lVert y - A x \rVert^2 + \rho \lVert x - D(z) \rVert^2` for the :math:`\rho` of Morozov's
        discrepancy principle, found by bisection of its logarithm, since the residual rises with :math:`\rho`. An image that
        fits as well already is kept.
        """
        x, y = self.parts.decoder(z), self.y
        if self.tolerance == 0:
            return self.parts.encode(x + self.image.pinv(y - self.image(x)))
        fits = norm(y - self.image(x)) <= self.tolerance
        low, high = (torch.full_like(norm(y), bound) for bound in LOG_RHO)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            residual = norm(y - self.image(self.image.prox(x, y, over_items(middle.exp(), y))))
            low, high = (
                torch.where(residual > self.tolerance, low, middle),
                torch.where(residual > self.tolerance, middle, high),
            )
        moved = self.image.prox(x, y, over_items(low.exp(), y))
        return self.parts.encode(torch.where(over_items(fits, x), x, moved))

    def by_code(self, z: Tensor) -> Tensor:
        r"""Return the code after conjugate-gradient steps from ``z``, as long as the residual of an item exceeds the noise."""
        residual = self.y - self.op(z)
        value, share = norm(residual), z.new_ones(len(z))
        last, direction = torch.zeros_like(z), torch.zeros_like(z)
        for _ in range(self.iterations):
            linear = self.op.jacobian(z)
            gradient = linear.adjoint(residual)
            beta = _quotient(dot(gradient, gradient - last), norm(last) ** 2).clamp(min=0)  # Polak and Ribiere
            direction, last = gradient + over_items(beta, z) * direction, gradient
            length = share * _quotient(dot(gradient, direction), norm(linear(direction)) ** 2)
            trial = z + over_items(length, z) * direction
            residual_trial = self.y - self.op(trial)
            value_trial = norm(residual_trial)
            better = value_trial < value
            moves = better & (value > self.tolerance)
            z = torch.where(over_items(moves, z), trial, z)
            residual = torch.where(over_items(moves, residual), residual_trial, residual)
            value = torch.where(moves, value_trial, value)
            share = torch.where(better, (2 * share).clamp(max=1), share / 2)
            direction = torch.where(over_items(better, z), direction, 0)
        return z


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a / b``, and 0 where ``b`` is 0."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)


METHOD = Method(
    ReSample,
    steps=200,
    spacing="vp",
    paper="Song et al., 2024, arXiv 2307.08123",
    presets={
        "any": Preset(
            {"steps": 500, "spacing": "vp", "every": 10, "gamma": 40.0, "iterations": 500},
            "Song et al., 2024, and the released code: 500 DDIM steps, a fit every 10, 500 iterations by the code",
        ),
    },
)
