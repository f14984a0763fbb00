"""DAPS: decoupled annealing posterior sampling."""

from __future__ import annotations

import itertools
from functools import partial

import torch
from torch import Tensor

from invdiff.methods.divergence import EXPLOSION, BoundsCheck
from invdiff.methods.likelihood_steps import check_likelihood, draw_near
from invdiff.methods.method import Method, Preset
from invdiff.methods.on_step import OnStep
from invdiff.methods.probability_flow import follow_flow
from invdiff.methods.samplers.sampler import Sampler
from invdiff.operators import GaussianNoise, Operator
from invdiff.priors import ScoreModel
from invdiff.random import Streams

__all__ = ["DAPS"]


class DAPS(Sampler):
    r"""Decoupled annealing posterior sampling. ``op`` may be nonlinear.

    At every level the probability-flow ODE is solved from the sample to zero noise, :math:`x_0` is drawn around the solution,
    given the measurement, and noise is added to reach the next level:

    .. math:: \hat x_0 = \mathrm{ODE}(x_t), \qquad
        x_0 \sim \frac1Z\, \mathcal{N}(x_0; \hat x_0, \varsigma_t^2 I)\, \mathcal{N}(y; A(x_0), \tau^2 I), \qquad
        x_s = \alpha_s x_0 + \sigma_s \varepsilon

    It would be exact if :math:`p(x_0 | x_t)` were this Gaussian around :math:`\hat x_0`. The Gaussian is isotropic, so the
    measurement changes only measured directions, and the mode is chosen without it. The method is accurate if the posterior is
    nearly Gaussian.

    Args:
        score: The prior.
        op: The measurement.
        y: Measurement, ``(B, *op.out_shape)``.
        ode_steps: Euler steps of the ODE, at least 1.
        langevin_steps: Langevin steps of the draw if ``op`` is nonlinear, at least 1.
        tau: Standard deviation :math:`\tau \ge 0` of the Gaussian noise assumed in the draw, in the units of ``y``; 0: the
            noise model of ``op``.

    Cost: ``ode_steps`` denoiser evaluations per level, no gradient of the network; and a linear solve, or two gradients of
    ``op`` for every Langevin step.

    References:
        Zhang et al., Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing, 2025,
        https://arxiv.org/abs/2407.01521, algorithm 1. Departures: the draw is exact for linear operators; Langevin steps are
        Metropolis-adjusted with an adapted step size, which the paper tunes per task; :math:`\tau` is :math:`\sigma_y`
        instead of a tuned 0.01, so that the spread of the samples is meaningful.
    """

    any_noise = True

    def __init__(
        self, score: ScoreModel, op: Operator, y: Tensor, *, ode_steps: int = 5, langevin_steps: int = 100, tau: float = 0.0
    ) -> None:
        super().__init__(score, op, y)
        if ode_steps < 1 or langevin_steps < 1 or not tau >= 0:
            raise ValueError(
                f"DAPS: expected ode_steps >= 1, langevin_steps >= 1 and tau >= 0, got {ode_steps}, {langevin_steps} and {tau}."
            )
        self.ode_steps, self.langevin_steps, self.tau = ode_steps, langevin_steps, tau
        self.noise = GaussianNoise(tau) if tau else op.noise
        check_likelihood("DAPS", op, self.noise)

    @torch.no_grad()
    def sample(self, times: Tensor, *, streams: Streams, on_step: OnStep) -> Tensor:
        check = BoundsCheck(self.y.device)
        schedule, draw = self.score.schedule, partial(streams.normal, dtype=self.y.dtype)
        x_t = float(schedule(times[0])[1]) * draw(self.op.in_shape)
        for step, (t, s) in enumerate(itertools.pairwise(times)):
            x0_hat = self.follow_ode(x_t, t)
            ratio_t = float(schedule.ratio(t))
            x_0 = draw_near(self.op, self.y, x0_hat, radius=ratio_t, noise=self.noise, steps=self.langevin_steps, draw=draw)
            alpha_s, sigma_s = map(float, schedule(s))
            x_t = alpha_s * x_0 + sigma_s * draw(self.op.in_shape)
            check(x_t, bound=EXPLOSION * (1 + sigma_s), step=step + 1)
            on_step(x_t, x0_hat)
        check.finish()
        return x_t

    def follow_ode(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the end of the probability-flow ODE from ``x_t``, by :func:`~invdiff.methods.probability_flow.follow_flow`."""
        return follow_flow(self.score, x_t, t, self.ode_steps)


METHOD = Method(
    DAPS,
    steps=200,
    spacing="karras",
    paper="Zhang et al., 2025, arXiv 2407.01521",
    presets={
        "any": Preset(
            {
                "steps": 200,
                "spacing": "karras",
                "ratio_max": 100.0,
                "ratio_min": 0.1,
                "ode_steps": 5,
                "langevin_steps": 100,
                "tau": 0.01,
            },
            "Zhang et al., 2025: the released configurations (configs/sampler/edm_daps.yaml, configs/task); step sizes are "
            "adapted, and linear operators need none",
        ),
    },
)
