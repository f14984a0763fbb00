"""Annealed Langevin dynamics: one step by hand, the law it keeps, and the loop around it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import norm, randn
from torch import Tensor
from torch.testing import assert_close

from invdiff import DivergenceError, PosteriorSampler
from invdiff.methods.guidance import SDA, ScoreALD
from invdiff.methods.samplers import Langevin
from invdiff.operators import Function, Matrix
from invdiff.priors import Gaussian
from invdiff.random import Streams, generator
from invdiff.schedules import EDM, VP, RectifiedFlow, Schedule

OP = Matrix(torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.4, -0.8]], dtype=torch.float64), sigma_y=0.4)
Y = torch.tensor([[1.0, -0.7]], dtype=torch.float64)
EYE = torch.eye(3, dtype=torch.float64)


def prior(schedule: Schedule | None = None) -> Gaussian:
    root = randn(3, 3, seed=5) / 2
    return Gaussian(randn(3, seed=6), root @ root.mT + 0.2 * EYE, schedule=schedule or EDM())


def law_of_the_score(model: Gaussian, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return precision and mean of the law whose score is that of ``x_t`` plus score-ALD's likelihood."""
    alpha, sigma = model.schedule(t)
    inflated = OP.sigma_y**2 + torch.linalg.matrix_norm(OP.matrix, 2) ** 2 * (sigma / alpha) ** 2
    before = torch.linalg.inv(alpha**2 * model.covariance() + sigma**2 * EYE)
    precision = before + OP.matrix.mT @ OP.matrix / (alpha**2 * inflated)
    pull = before @ (alpha * model.mean) + OP.matrix.mT @ Y[0] / (alpha * inflated)
    return precision, torch.linalg.solve(precision, pull)


@pytest.mark.parametrize("schedule", [VP(), EDM(), RectifiedFlow()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("adaptive", [False, True])
def test_one_step(schedule: Schedule, adaptive: bool) -> None:
    model, t = prior(schedule), schedule.time(0.7)
    x_t, z, (_, sigma) = randn(4, 3, seed=1), randn(4, 3, seed=2), schedule(t)
    precision, mean = law_of_the_score(model, t)
    score = -(x_t - mean) @ precision
    delta = 0.3 * sigma**2 * torch.ones(4, 1)
    if adaptive:
        delta = 0.3 * 3 / (score**2).sum(1, keepdim=True)
    found = Langevin(model, OP, Y.expand(4, 2), tau=0.3, adaptive=adaptive).correct(x_t, t, z)
    assert_close(found, x_t + delta * score + (2 * delta).sqrt() * z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("schedule", [VP(), EDM()], ids=lambda s: type(s).__name__)
def test_corrections_keep_the_law_of_the_score(schedule: Schedule) -> None:
    """With the covariance of the discretised dynamics, P^-1 (I - delta P / 2)^-1, which no factor of 2 can mimic."""
    model, t, rows = prior(schedule), schedule.time(0.7), 20_000
    algorithm = Langevin(model, OP, Y.expand(rows, 2), tau=0.5)
    x_t = torch.zeros(rows, 3, dtype=torch.float64)
    for step in range(60):
        x_t = algorithm.correct(x_t, t, randn(rows, 3, seed=step))
    precision, mean = law_of_the_score(model, t)
    delta = 0.5 * float(schedule(t)[1]) ** 2
    cov = torch.linalg.inv(precision @ (EYE - delta / 2 * precision))
    assert ((x_t.mean(0) - mean) / (cov.diagonal() / rows).sqrt()).abs().max() < 4.5
    found, scale = torch.cov(x_t.mT), cov.diagonal().sqrt()
    assert ((found - cov) / scale / scale[:, None]).abs().max() < 4.5 * (2 / rows) ** 0.5
    bare = torch.linalg.inv(precision)
    assert ((found - bare) / scale / scale[:, None]).abs().max() > 9 * (2 / rows) ** 0.5  # The test can tell.


@pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")  # few steps
@pytest.mark.parametrize(("eta", "rule"), [(0.0, "ddim"), (1.0, "ddpm")])
@pytest.mark.parametrize("likelihood", ["score-ald", "sda"])
def test_the_predictor_alone_is_the_guidance_under_a_step_rule(eta: float, rule: str, likelihood: str) -> None:
    model, y = prior(VP()), randn(2, 2, seed=1)
    options: dict[str, Any] = {"likelihood": likelihood, "gamma": 0.8, "corrections": 0, "eta": eta}
    found = PosteriorSampler(model, OP, method="langevin", steps=12, **options).run(y, num_samples=3)
    expected = PosteriorSampler(model, OP, method=likelihood, rule=rule, steps=12, gamma=0.8).run(y, num_samples=3)
    assert torch.equal(found.samples, expected.samples)
    assert found.nfe == 12


@pytest.mark.parametrize("guidance", [ScoreALD, SDA])
def test_without_a_predictor_the_scaled_state_is_carried_over(guidance: Any) -> None:
    model, times = prior(VP()), VP().time(torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64))
    name = {ScoreALD: "score-ald", SDA: "sda"}[guidance]
    algorithm, steps = Langevin(model, OP, Y, likelihood=name, corrections=2, predictor=False), []
    found = algorithm.sample(times, streams=Streams([generator(0, "sample", 0, 0)]), on_step=lambda *_: steps.append(1))
    streams = Streams([generator(0, "sample", 0, 0)])
    noise = [streams.normal((3,), dtype=torch.float64) for _ in range(5)]
    (alpha_t, sigma_t), (alpha_s, _) = (VP()(t) for t in times[:2])
    x = algorithm.correct(algorithm.correct(sigma_t * noise[0], times[0], noise[1]), times[0], noise[2])
    x = alpha_s / alpha_t * x
    x = algorithm.correct(algorithm.correct(x, times[1], noise[3]), times[1], noise[4])
    exact = guidance(model, OP, Y)
    assert_close(found, exact.posterior_mean(exact.at(x, times[1])))
    assert len(steps) == 2


@pytest.mark.parametrize("predictor", [True, False])
def test_slow_annealing_ends_at_the_posterior(predictor: bool) -> None:
    """The likelihood becomes exact as the noise vanishes: with enough corrections there, so do the samples."""
    model = prior(VP())
    op = Matrix(torch.linalg.qr(randn(3, 3, seed=8))[0], sigma_y=0.4)
    y = torch.tensor([[1.0, -0.7, 0.2]], dtype=torch.float64)
    settings: dict[str, Any] = {"steps": 20, "ratio_max": 3.0, "ratio_min": 0.1, "corrections": 20, "tau": 0.2}
    run = PosteriorSampler(model, op, method="langevin", predictor=predictor, **settings).run(y, num_samples=1000)
    samples, exact = run.samples[:, 0], model.posterior(op, y)
    variance = exact.covariance().diagonal()
    assert (((samples.mean(0) - exact.mean[0]) / variance.sqrt()).abs() < 0.15).all()
    assert ((samples.var(0) / variance - 1).abs() < 0.25).all()
    other = model.posterior(op, y + 1)
    assert (((samples.mean(0) - other.mean[0]) / variance.sqrt()).abs() > 0.5).any()


def test_steps_follow_the_score_of_their_own_item() -> None:
    model, t, x_t, z = prior(), EDM().time(0.7), randn(3, 3, seed=1), randn(3, 3, seed=2)
    y = torch.cat([Y, 100 * Y, Y])
    together = Langevin(model, OP, y, adaptive=True).correct(x_t, t, z)
    for b in range(3):
        assert_close(
            Langevin(model, OP, y[b : b + 1], adaptive=True).correct(x_t[b : b + 1], t, z[b : b + 1]), together[b : b + 1]
        )
    assert (norm(together - x_t)[1] < norm(together - x_t)[[0, 2]]).all()  # A long score makes small steps.


def test_divergence_names_step_and_row() -> None:
    op = Function(lambda x: torch.where(x > 1e3, math.nan, 1e3 * x), (3,), sigma_y=0.1, dtype=torch.float64)
    times, streams = (
        torch.tensor([5.0, 1.0, 0.0], dtype=torch.float64),
        Streams([generator(0, "sample", 0, k) for k in range(2)]),
    )
    algorithm = Langevin(prior(), op, torch.zeros(2, 3, dtype=torch.float64))
    with pytest.raises(DivergenceError, match="diverged at step 1, row 0"):
        algorithm.sample(times, streams=streams, on_step=lambda *_: None)


@pytest.mark.parametrize(
    "options",
    [
        {"corrections": -1},
        {"corrections": 0, "predictor": False},
        {"tau": 0.0},
        {"tau": 1.0},
        {"tau": math.nan},
        {"likelihood": "dps"},
        {"gamma": 0.0},
        {"eta": 1.1},
    ],
)
def test_refuses_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Langevin(prior(), OP, Y, **options)
