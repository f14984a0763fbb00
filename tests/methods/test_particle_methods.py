"""TDS, MCG-diff and FPS: their weights against densities, their laws against what a discretised Gaussian prior leaves exact."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from helpers import randn
from streams import Fast, Scripted
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal
from torch.testing import assert_close

from invdiff import DivergenceError, PosteriorSampler
from invdiff.methods.denoised import Denoised, prior_mean
from invdiff.methods.particles import FPS, TDS, MCGDiff, ParticleMethod
from invdiff.methods.particles.loop import Cloud, run_particles
from invdiff.methods.steps import DDIM
from invdiff.operators import Function, Identity, LinearOperator, Mask, Matrix
from invdiff.presets import PRESETS
from invdiff.priors import Gaussian, GaussianMixture
from invdiff.random import Draws
from invdiff.schedules import EDM, VP, Schedule, time_grid

pytestmark = pytest.mark.slow

SMC = ("tds", "mcg-diff", "fps-smc")
LEVELS = [8 * 0.7**k for k in range(15)] + [0.0]


def zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


def vectors(schedule: Schedule) -> Gaussian:
    root = randn(2, 2, seed=4) / 2
    return Gaussian(randn(2, seed=5), root @ root.mT + 0.2 * torch.eye(2, dtype=torch.float64), schedule=schedule)


@dataclass
class Affine:
    """A Gaussian vector ``offset + root @ e`` of white noise ``e`` that it shares with others."""

    offset: Tensor
    root: Tensor


def chain(prior: Gaussian, times: Tensor) -> list[Affine]:
    """Return the states of DDPM's chain, divided by alpha, as functions of all the noise in it: the discretised prior."""
    n, steps = prior.mean.numel(), len(times) - 1
    noises = (steps + 1) * n
    e = torch.cat([torch.zeros(1, noises), torch.eye(noises)]).double().reshape(-1, steps + 1, n)
    x = float(prior.schedule(times[0])[1]) * e[:, 0]
    states = [x / float(prior.schedule(times[0])[0])]
    for k, (t, s) in enumerate(itertools.pairwise(times)):
        x = DDIM(1.0)(prior_mean, Denoised(prior, x, t), s, e[:, k + 1])
        states.append(x / float(prior.schedule(s)[0]))
    return [Affine(z[0], (z[1:] - z[0]).mT) for z in states]


def condition(x: Affine, seen: Sequence[tuple[Affine, Tensor, Tensor]]) -> tuple[Tensor, Tensor, float]:
    """Return mean and covariance of ``x`` given ``y = z + noise`` for all ``(z, y, variances)``, and log p of these."""
    offset = torch.cat([z.offset for z, _, _ in seen])
    root = torch.cat([z.root for z, _, _ in seen])
    y, variances = torch.cat([y for _, y, _ in seen]), torch.cat([v for _, _, v in seen])
    cov = root @ root.mT + variances.diag()
    gain = torch.linalg.solve(cov, root @ x.root.mT).mT
    log_p = float(MultivariateNormal(offset, cov).log_prob(y))
    return x.offset + gain @ (y - offset), x.root @ x.root.mT - gain @ root @ x.root.mT, log_p


def groups_of(method: ParticleMethod[Any], times: Tensor, seed: int = 0) -> Cloud:
    rows = len(method.y)
    resampling = [torch.Generator().manual_seed(1000 + g) for g in range(rows // method.particles)]
    return run_particles(method, times, streams=Fast(rows, seed), resampling=resampling)


def check_cloud(cloud: Cloud, mean: Tensor, cov: Tensor, log_p: float, *, tolerance: float = 0.06) -> None:
    """Raise unless the moments are within ``tolerance`` standard deviations, and the evidence within ``tolerance``."""
    share = cloud.log_evidence.softmax(0).repeat_interleave(len(cloud.x) // len(cloud.log_evidence))
    w = (cloud.weights * share)[:, None]
    centre, scale = (w * cloud.x).sum(0), cov.diagonal().sqrt()
    found = (w * (cloud.x - centre)).mT @ (cloud.x - centre)
    assert ((centre - mean).abs() < tolerance * scale).all(), (centre, mean)
    assert ((found - cov).abs() < 2 * tolerance * scale * scale[:, None]).all(), (found, cov)
    evidence = float(cloud.log_evidence.logsumexp(0)) - math.log(len(cloud.log_evidence))
    assert abs(evidence - log_p) < tolerance, (evidence, log_p)


OPS: list[LinearOperator] = [
    Matrix(torch.tensor([[1.2, -0.7]], dtype=torch.float64), sigma_y=0.4),
    Matrix(torch.tensor([[1.2, -0.7], [0.3, 0.4], [0.0, 1.0]], dtype=torch.float64), sigma_y=0.4),
    Mask(torch.tensor([0, 1]), sigma_y=0.2),
]
CASES = pytest.mark.parametrize("op", OPS, ids=["one", "three", "mask"])
SCHEDULES = pytest.mark.parametrize("schedule", [VP(), EDM()], ids=lambda s: type(s).__name__)


def measured(op: LinearOperator, rows: int) -> Tensor:
    return op.measure(randn(1, 2, seed=8), seed=9).repeat(rows, 1)


# Exact as particles grow.


@CASES
@SCHEDULES
@pytest.mark.parametrize("cls", [TDS, MCGDiff])
def test_the_posterior_of_the_discretised_prior(cls: type[TDS | MCGDiff], op: LinearOperator, schedule: Schedule) -> None:
    prior, times, y = vectors(schedule), schedule.time(torch.tensor(LEVELS, dtype=torch.float64)), measured(op, 40000)
    last = chain(prior, times)[-1]
    rows = range(op.out_shape[0]) if not isinstance(op, Mask) else [1]
    matrix = op(torch.eye(2, dtype=torch.float64)).mT[rows]
    seen = Affine(matrix @ last.offset, matrix @ last.root)
    expected = condition(last, [(seen, y[0, rows], torch.full((len(rows),), op.sigma_y**2, dtype=torch.float64))])
    check_cloud(groups_of(cls(prior, op, y, particles=20000, weighted=True), times), *expected)
    other = cls(prior, op, y + op.keep_measured(torch.ones_like(y)), particles=20000, weighted=True)
    with pytest.raises(AssertionError):
        check_cloud(groups_of(other, times), *expected)


class Recorded(FPS):
    """FPS that keeps the measurements it diffused and their log densities."""

    def start(self, t: Tensor, draw: Any) -> tuple[Denoised, Tensor]:
        self.sequence: list[Tensor] = []
        self.log_q = 0.0
        return super().start(t, draw)

    def _diffuse(self, mean: Tensor, variance: float, draw: Any) -> tuple[Tensor, Tensor]:
        u, log_q = super()._diffuse(mean, variance, draw)
        self.sequence.append(u[0])
        self.log_q += float(log_q[0])
        return u, log_q


@pytest.mark.parametrize(
    "op", [*OPS, Matrix(torch.tensor([[1.2, -0.7]], dtype=torch.float64))], ids=["one", "three", "mask", "exact"]
)
@SCHEDULES
def test_fps_filters_its_sequence_exactly(op: LinearOperator, schedule: Schedule) -> None:
    prior, times, y = vectors(schedule), schedule.time(torch.tensor(LEVELS, dtype=torch.float64)), measured(op, 40000)
    states = chain(prior, times)
    method = Recorded(prior, op, y, particles=40000, weighted=True)
    cloud = groups_of(method, times)
    kept = method.data.measured
    basis = method.data.svd.synthesize(torch.eye(2, dtype=torch.float64))[kept]
    seen = [
        (Affine(basis @ z.offset, basis @ z.root), u[kept], method.data.noise[kept] ** 2)
        for z, u in zip(states, method.sequence, strict=False)
    ]
    assert len(seen) == len(LEVELS) - 1
    if op.sigma_y == 0:  # The last step counts for exact data only, with the noise of the level before.
        last = Affine(basis @ states[-1].offset, basis @ states[-1].root)
        seen.append((last, method.data.y_bar[0, kept], torch.full((1,), LEVELS[-2] ** 2, dtype=torch.float64)))
    mean, cov, log_p = condition(states[-1], seen)
    if op.sigma_y == 0:
        assert_close(op(cloud.x), y)
        into_null = torch.eye(2, dtype=torch.float64) - basis.mT @ basis
        mean, cov = mean + basis.mT @ (method.data.y_bar[0, kept] - basis @ mean), into_null @ cov @ into_null
        cov = cov + 1e-12 * torch.eye(2, dtype=torch.float64)
    log_s = float(method.data.svd.singular[kept].log().sum())
    check_cloud(cloud, mean, cov, log_p - method.log_q - log_s)


def test_mcg_diff_and_fps_are_exact_for_exact_data() -> None:
    """On a fine grid: the mode that the data name, with its weight, and the evidence."""
    schedule = EDM(sigma_max=20.0)
    means = torch.tensor([[1.0, 2.0], [-0.5, -2.0]], dtype=torch.float64)
    prior = GaussianMixture(torch.tensor([0.3, 0.7], dtype=torch.float64), means, zeros(2, 2) + 0.4, schedule=schedule)
    op = Matrix(torch.tensor([[2.0, 0.0]], dtype=torch.float64))
    y = torch.tensor([[0.4]], dtype=torch.float64)
    exact = prior.posterior(op, y)
    mean = float(exact.weights[0] @ exact.means[0, :, 1])
    log_p = float(torch.logsumexp(prior.weights.log() + Normal(2 * means[:, 0], 2 * math.sqrt(0.4)).log_prob(y[0]), 0))
    for cls, particles, steps in ((MCGDiff, 1000, 50), (FPS, 500, 150)):
        times = time_grid(schedule, steps)
        cloud = groups_of(cls(prior, op, y.expand(20000, -1), particles=particles), times)
        assert_close(op(cloud.x), y.expand(20000, -1))
        errors = cloud.log_evidence.exp().std() / len(cloud.log_evidence) ** 0.5
        assert abs(float(cloud.log_evidence.exp().mean()) - math.exp(log_p)) < 3 * float(errors) + 0.05 * math.exp(log_p)
        assert float(cloud.x[:, 1].mean()) == pytest.approx(mean, abs=0.15)
        assert float(errors) < 0.25 * math.exp(log_p)


def test_fps_counts_noise_again_and_again() -> None:
    """What its page says: with noise its samples are too narrow, where those of mcg-diff are not."""
    prior = Gaussian(zeros(1), zeros(1) + 1, schedule=EDM(sigma_max=20.0))
    op, y = Identity((1,), sigma_y=0.5), torch.tensor([[0.7]], dtype=torch.float64)
    spread = {}
    for method in ("mcg-diff", "fps-smc"):
        post = PosteriorSampler(prior, op, method=method, steps=60, particles=100).run(y, num_samples=2000)
        spread[method] = float(post.std[0, 0]) / math.sqrt(0.2)
    assert spread["mcg-diff"] == pytest.approx(1, abs=0.08)
    assert spread["fps-smc"] < 0.6


# Weights against densities, one step by hand.


def test_one_step_of_tds_by_hand() -> None:
    """Prior N(0, 1), y = 2 x + n with sigma 0.5, from ratio 1 to 1/2, twist of variance 1/4 + 3/2 ratio^2."""
    prior, y = Gaussian(zeros(1), zeros(1) + 1, schedule=EDM()), zeros(2, 1) + 0.6
    method = TDS(prior, Matrix(zeros(1, 1) + 2, sigma_y=0.5), y, particles=2, widening=1.5)
    e, x_t = torch.tensor([[0.3], [-1.1]], dtype=torch.float64), torch.tensor([[0.9], [-0.2]], dtype=torch.float64)
    here = method.twist(method.at(x_t, torch.tensor(1.0)))
    there, increment = method.step(here, torch.tensor(0.5), Draws(Scripted([e]), torch.float64))
    x_s = there.x_t

    def log_twist(x: Tensor, ratio: float) -> Tensor:
        return Normal(2 * x / (1 + ratio**2), math.sqrt(0.25 + 1.5 * ratio**2)).log_prob(y)

    x0_hat = x_t / 2
    gradient = (y - 2 * x0_hat) / 1.75  # d (2 x0_hat) / d x_t = 1
    p, q = (Normal(0.25 * x_t + 0.75 * mean, math.sqrt(0.25 * 0.75)) for mean in (x0_hat, x0_hat + gradient))
    assert_close(x_s, q.mean + q.stddev * e)
    log_w = p.log_prob(x_s) - q.log_prob(x_s) + log_twist(x_s, 0.5) - log_twist(x_t, 1.0)
    assert_close(increment, log_w.squeeze(1))
    end, increment = method.step(there, torch.tensor(0.0), Draws(Scripted([]), torch.float64))  # type: ignore[arg-type]
    last = end.x_t
    assert_close(last, x_s / 1.25)
    assert_close(increment, (Normal(2 * last, 0.5).log_prob(y) - log_twist(x_s, 0.5)).squeeze(1))


@pytest.mark.parametrize("sigma_y", [0.6, 0.0])
def test_one_step_of_mcg_diff_by_hand(sigma_y: float) -> None:
    """Prior N(0, 1), y = 2 x + n, so the variance of y / 2 is 0.09, or 0.01 for exact data; from ratio 1 to 1/2."""
    prior, y = Gaussian(zeros(1), zeros(1) + 1, schedule=EDM()), zeros(2, 1) + 0.6
    method = MCGDiff(prior, Matrix(zeros(1, 1) + 2, sigma_y=sigma_y), y, particles=2, kappa=0.01)
    e, x_t = torch.tensor([[0.3], [-1.1]], dtype=torch.float64), torch.tensor([[0.9], [-0.2]], dtype=torch.float64)
    # The sign of a singular vector is free.
    sign = float(method.data.svd.synthesize(torch.ones(1, 1, dtype=torch.float64)))
    draw = Draws(Scripted([sign * e]), torch.float64)
    there, increment = method.step(method.at(x_t, torch.tensor(1.0)), torch.tensor(0.5), draw)
    x_s = there.x_t
    kappa = 0.09 if sigma_y else 0.01
    v_t, v_s = 1 + kappa, 0.25 + kappa
    m, c = 0.25 * x_t + 0.75 * x_t / 2, math.sqrt(0.25 * 0.75)
    gain = c**2 / (c**2 + v_s)
    q = Normal(m + gain * (0.3 - m), math.sqrt(gain * v_s))
    assert_close(x_s, q.mean + q.stddev * e)
    log_g_s, log_g_t = Normal(x_s, math.sqrt(v_s)).log_prob(y / 2), Normal(x_t, math.sqrt(v_t)).log_prob(y / 2)
    assert_close(increment, (Normal(m, c).log_prob(x_s) + log_g_s - q.log_prob(x_s) - log_g_t).squeeze(1))


# What particles of a group share, what is refused, and what is published.


def test_particles_of_fps_share_their_measurements() -> None:
    y = randn(6, 1)
    method = FPS(vectors(EDM()), OPS[0], y, particles=3)
    method.start(torch.tensor(2.0), Draws(Fast(6), torch.float64))
    u = (method.u_t - method.data.y_bar)[:, 0].reshape(2, 3)
    assert_close(u, u[:, :1].expand(2, 3))
    assert not torch.isclose(u[0, 0], u[1, 0])


def test_weights_that_are_not_a_number_are_not_hidden() -> None:
    """Those of the start too: a group without a weight has no sample to offer."""
    op = Function(lambda x: torch.where(x > 100, x, math.nan), (2,), sigma_y=0.1)
    with pytest.raises(DivergenceError, match="sample 0 of item 0 diverged at step 1"):
        PosteriorSampler(vectors(VP()), op, method="tds", steps=3).run(randn(1, 2))


@pytest.mark.parametrize("method", SMC)
def test_refuses_options(method: str) -> None:
    with pytest.raises(ValueError, match="at least 2 particles"):
        PosteriorSampler(vectors(VP()), OPS[0], method=method, particles=1)


def test_refuses_options_of_one_method() -> None:
    with pytest.raises(ValueError, match="widening must not be negative"):
        PosteriorSampler(vectors(VP()), OPS[0], method="tds", widening=-1.0)
    with pytest.raises(ValueError, match="kappa must be positive"):
        PosteriorSampler(vectors(VP()), OPS[0], method="mcg-diff", kappa=0.0)


@pytest.mark.parametrize("method", SMC)
def test_published_settings_run(method: str) -> None:
    for preset in PRESETS[method].values():
        settings: dict[str, Any] = dict(preset.settings) | {"steps": 3}
        post = PosteriorSampler(vectors(VP()), OPS[0], method=method, **settings).run(randn(1, 1))
        assert post.samples.isfinite().all()
