"""Annealed Langevin dynamics, with or without a predictor."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from invdiff.linalg import norm, over_items
from invdiff.methods.divergence import EXPLOSION, BoundsCheck
from invdiff.methods.guidance.guidance import ConditionalDenoiser
from invdiff.methods.guidance.score_ald import ScoreALD
from invdiff.methods.guidance.sda import SDA
from invdiff.methods.method import Method, Preset
from invdiff.methods.on_step import OnStep
from invdiff.methods.samplers.sampler import Sampler
from invdiff.methods.steps.ddim import DDIM
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Streams

__all__ = ["Langevin"]

LIKELIHOODS: Mapping[str, Callable[..., ConditionalDenoiser]] = {"score-ald": ScoreALD, "sda": SDA}


class Langevin(Sampler):
    r"""Annealed Langevin dynamics: Langevin steps at decreasing noise levels. ``op`` may be nonlinear.

    At each level :math:`t` the corrector repeats, with :math:`s = \nabla \log p_t(x_t) + g(x_t)` and standard normal :math:`z`,

    .. math:: x_t \leftarrow x_t + \delta s + \sqrt{2 \delta}\, z, \qquad s = \frac{\alpha_t E[x_0 | x_t, y] - x_t}{\sigma_t^2},
        \qquad \delta = \tau \sigma_t^2 \ \text{ or }\ \tau\, \frac{\dim x}{\lVert s \rVert^2},

    where :math:`g` is the likelihood score, and a step of the reverse diffusion (the predictor) leads to the next level.
    Without a predictor :math:`x_t / \alpha_t` is kept, and the last level ends at the posterior mean. With the first
    :math:`\delta`, the corrector leaves the distribution with score :math:`s` invariant, up to :math:`O(\tau)`; how close that
    distribution is to the posterior depends on the likelihood approximation. At low noise the steps shrink with
    :math:`\sigma_t` while the posterior does not, so errors of earlier levels remain.

    Args:
        score: The prior.
        op: The measurement.
        y: Measurement, ``(B, *op.out_shape)``.
        likelihood: ``score-ald`` (no gradient of the network) or ``sda``.
        gamma: :math:`\gamma` of that likelihood.
        corrections: Langevin steps per level, at least 0 (at least 1 without a predictor).
        tau: Relative step size :math:`\tau`, in (0, 1).
        adaptive: Whether to use the second :math:`\delta`, which depends on the norm of the score of each item. In few
            dimensions it is erratic.
        predictor: Whether a reverse-diffusion step leads to the next level.
        eta: Stochasticity of that step in [0, 1]: 0 is the exponential integrator, 1 ancestral sampling.

    Cost: ``corrections + 1`` denoiser evaluations per step (``corrections`` without a predictor, and one more at the end), and
    as many vector-Jacobian products for ``sda``.

    References:
        Jalal et al., Robust Compressed Sensing MRI with Deep Generative Priors, 2021, https://arxiv.org/abs/2108.01368
        (``predictor=False``, after Song & Ermon, 2019, https://arxiv.org/abs/1907.05600); Rozet & Louppe, Score-based Data
        Assimilation, 2023, https://arxiv.org/abs/2306.10574 (``likelihood="sda", adaptive=True``). Departures: any schedule;
        Jalal's :math:`\gamma_t` as in :class:`~invdiff.methods.guidance.ScoreALD`; SDA corrects after the predictor, which
        omits the first level and includes the last, where this library has no noise and thus no score.
    """

    def __init__(
        self,
        score: ScoreModel,
        op: Operator,
        y: Tensor,
        *,
        likelihood: str = "score-ald",
        gamma: float = 1.0,
        corrections: int = 1,
        tau: float = 0.25,
        adaptive: bool = False,
        predictor: bool = True,
        eta: float = 0.0,
    ) -> None:
        super().__init__(score, op, y)
        if likelihood not in LIKELIHOODS:
            raise ValueError(f"Langevin: unknown likelihood {likelihood!r}, expected one of {', '.join(LIKELIHOODS)}.")
        if corrections < 0 or not 0 < tau < 1 or (corrections == 0 and not predictor):
            raise ValueError(
                "Langevin: expected corrections >= 0 (>= 1 without a predictor) and 0 < tau < 1, "
                f"got corrections={corrections}, tau={tau}."
            )
        self.likelihood, self.gamma, self.eta = likelihood, gamma, eta
        self.corrections, self.tau, self.adaptive, self.predictor = corrections, tau, adaptive, predictor
        self.guidance, self.rule = LIKELIHOODS[likelihood](score, op, y, gamma=gamma), DDIM(eta)

    @torch.no_grad()
    def sample(self, times: Tensor, *, streams: Streams, on_step: OnStep) -> Tensor:
        check = BoundsCheck(self.y.device)
        schedule, dtype, event = self.score.schedule, self.y.dtype, self.op.in_shape
        x_t = float(schedule(times[0])[1]) * streams.normal(event, dtype=dtype)
        for step, (t, s) in enumerate(itertools.pairwise(times)):
            for _ in range(self.corrections):
                x_t = self.correct(x_t, t, streams.normal(event, dtype=dtype))
            at = self.guidance.at(x_t, t)
            alpha_s, sigma_s = at.levels(s)
            if self.predictor:
                x_t = self.rule(self.guidance.posterior_mean, at, s, streams.normal(event, dtype=dtype))
            else:
                x_t = alpha_s / at.alpha_t * x_t if sigma_s > 0 else self.guidance.posterior_mean(at)
            check(x_t, bound=EXPLOSION * (1 + sigma_s), step=step + 1)
            on_step(x_t, at.estimate)
        check.finish()
        return x_t

    def correct(self, x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Return ``x_t`` after one Langevin step at noise level ``t``."""
        at = self.guidance.at(x_t, t)
        score = (at.alpha_t * self.guidance.posterior_mean(at) - x_t) / at.sigma_t**2
        delta = x_t.new_tensor(self.tau * at.sigma_t**2)
        if self.adaptive:
            delta = over_items(self.tau * x_t[0].numel() / norm(score) ** 2, x_t)
        return x_t + delta * score + (2 * delta).sqrt() * z


METHOD = Method(
    Langevin,
    steps=200,
    paper="Jalal et al., 2021, arXiv 2108.01368; Rozet & Louppe, 2023, arXiv 2306.10574",
    presets={
        "any": Preset(
            {"steps": 2311, "predictor": False, "corrections": 3, "tau": 0.0207, "gamma": 1.0},
            "authors' code of Jalal et al., brain MRI: 2311 geometric levels, step 9e-7 (sigma / 0.0066)^2. Its levels, from "
            "232 to 0.0066 in units of the 99 % quantile, are replaced by those of the prior",
        ),
    },
)
