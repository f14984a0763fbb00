"""PnP-DM: split Gibbs sampling with a diffusion prior."""

from __future__ import annotations

import itertools
from functools import partial

import torch
from torch import Tensor

from invdiff.methods.denoised import Denoised, prior_mean
from invdiff.methods.divergence import EXPLOSION, BoundsCheck
from invdiff.methods.likelihood_steps import check_likelihood, draw_near, times_below
from invdiff.methods.method import Method, Preset
from invdiff.methods.on_step import OnStep
from invdiff.methods.samplers.sampler import Sampler
from invdiff.methods.steps.ddim import DDIM
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw, Streams

__all__ = ["PnPDM"]


class PnPDM(Sampler):
    r"""Split Gibbs sampling with a diffusion prior. ``op`` may be nonlinear.

    The Gibbs chain :math:`(x, z)` alternates between the two conditionals of its stationary distribution
    :math:`\pi(x, z) \propto p(x)\, \mathcal{N}(z; x, \rho^2 I)\, \mathcal{N}(y; A(z), \sigma_y^2 I)`:

    .. math:: z \sim \frac1Z\, \mathcal{N}(z; x, \rho^2 I)\, \mathcal{N}(y; A(z), \sigma_y^2 I), \qquad
        x \sim p(x_0 | x_t = \alpha_t z), \quad \varsigma_t = \rho

    The second draw is the reverse diffusion, started at noise-to-signal ratio :math:`\rho`. For linear :math:`A`, :math:`x` is
    distributed as the posterior for noise of covariance :math:`\sigma_y^2 I + \rho^2 A A^\top`, which is exact as
    :math:`\rho \to 0`, where the chain hardly moves. So :math:`\rho` decreases along the grid, down to ``rho_min``; the mixing
    at the last levels limits the accuracy.

    Every sample is the last state of its own chain. Samples are thus independent, unlike successive states of one chain, which
    at small :math:`\rho` are correlated over about (posterior variance) / :math:`\rho^2` sweeps.

    Args:
        score: The prior.
        op: The measurement; ``op.sigma_y`` is :math:`\sigma_y`.
        y: Measurement, ``(B, *op.out_shape)``.
        prior_steps: Steps of the reverse diffusion (DDPM) in every sweep, at least 1.
        rho_min: Lower bound :math:`\ge 0` on :math:`\rho`, in the units of ``x``; 0: the smallest level of the grid.
        extra_sweeps: Additional sweeps at the last :math:`\rho`, within the last step.
        langevin_steps: Langevin steps of the first draw if ``op`` is nonlinear, at least 1.

    Cost: ``prior_steps`` denoiser evaluations per sweep, no gradient of the network; and a linear solve, or two gradients of
    ``op`` for every Langevin step.

    References:
        Wu et al., Principled Probabilistic Imaging using Diffusion Models as Plug-and-Play Priors, 2024,
        https://arxiv.org/abs/2405.18782, algorithm 1. Departures: parallel chains instead of states of one chain; the reverse
        diffusion uses DDPM's steps; Langevin steps are Metropolis-adjusted, with an adapted step size.
    """

    any_noise = True

    def __init__(
        self,
        score: ScoreModel,
        op: Operator,
        y: Tensor,
        *,
        prior_steps: int = 20,
        rho_min: float = 0.0,
        extra_sweeps: int = 0,
        langevin_steps: int = 100,
    ) -> None:
        super().__init__(score, op, y)
        if prior_steps < 1 or not rho_min >= 0 or extra_sweeps < 0 or langevin_steps < 1:
            raise ValueError(
                "PnP-DM: expected prior_steps >= 1, rho_min >= 0, extra_sweeps >= 0 and langevin_steps >= 1, "
                f"got {prior_steps}, {rho_min}, {extra_sweeps} and {langevin_steps}."
            )
        check_likelihood("PnP-DM", op, op.noise)
        self.prior_steps, self.rho_min, self.extra_sweeps = prior_steps, rho_min, extra_sweeps
        self.langevin_steps = langevin_steps

    @torch.no_grad()
    def sample(self, times: Tensor, *, streams: Streams, on_step: OnStep) -> Tensor:
        check = BoundsCheck(self.y.device)
        draw = partial(streams.normal, dtype=self.y.dtype)
        rhos = [max(float(self.score.schedule.ratio(t)), self.rho_min) for t in times[:-1]]
        x = self.y.new_zeros(len(self.y), *self.op.in_shape)
        for step, rho in enumerate(rhos):
            for _ in range(1 + self.extra_sweeps if step + 1 == len(rhos) else 1):
                z = draw_near(self.op, self.y, x, radius=rho, noise=self.op.noise, steps=self.langevin_steps, draw=draw)
                x = self.draw_prior(z, rho, draw)
                check(x, bound=EXPLOSION * (1 + rho), step=step + 1)
            on_step(x, None)
        check.finish()
        return x

    def draw_prior(self, z: Tensor, rho: float, draw: Draw) -> Tensor:
        r"""Return a draw of :math:`\propto p(x)\, \mathcal{N}(z; x, \rho^2 I)`."""
        schedule, rule = self.score.schedule, DDIM(eta=1.0)
        t = schedule.time(rho)
        x_t = float(schedule(t)[0]) * z
        for u, v in itertools.pairwise(times_below(schedule, t, self.prior_steps)):
            x_t = rule(prior_mean, Denoised(self.score, x_t, u), v, draw(z.shape[1:]))
        return x_t


METHOD = Method(
    PnPDM,
    paper="Wu et al., 2024, arXiv 2405.18782",
    presets={
        # rho = 10 * 0.9**k: the grid is the whole sequence, bounded below by rho_min.
        kind: Preset(
            {"steps": 100, "ratio_max": 10.0, "ratio_min": 10 * 0.9**99, "prior_steps": 100, "rho_min": rho_min},
            "Wu et al., 2024: the annealing of the paper, as recalled, and the prior steps of the released "
            "configs/sampler/pnp_edm.yaml; the last of 100 sweeps of every chain, where the paper takes 20 sweeps after 40",
        )
        for kind, rho_min in (("blur", 0.3), ("downsample", 0.3), ("nonlinear", 0.1))
    },
)
