"""DAPS, PnP-DM and RED-diff: their steps against dense formulas, their laws against Gaussians known in closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import norm, randn
from streams import Fast, Scripted
from torch import Tensor
from torch.testing import assert_close

from invdiff import DivergenceError, PosteriorSampler
from invdiff.linalg import dense_matrix
from invdiff.methods.likelihood_steps import draw_near, times_below
from invdiff.methods.samplers import DAPS, PnPDM, REDDiff, Sampler
from invdiff.operators import Function, GaussianNoise, Identity, LinearOperator, Mask, Matrix
from invdiff.presets import PRESETS
from invdiff.priors import Gaussian
from invdiff.random import Streams
from invdiff.schedules import EDM, VP, RectifiedFlow, Schedule

pytestmark = pytest.mark.slow

EYE = torch.eye(4, dtype=torch.float64)
WIDE = Matrix(randn(3, 4, seed=9), sigma_y=0.2)


def run(algorithm: Sampler, times: Tensor, streams: Streams) -> Tensor:
    steps: list[Any] = []
    x = algorithm.sample(times, streams=streams, on_step=lambda *_: steps.append(None))
    assert len(steps) == len(times) - 1
    return x


def check_law(x: Tensor, mean: Tensor, cov: Tensor, *, bias: float = 0.0) -> None:
    """Raise unless mean and covariance of ``x`` are within 4.5 standard errors, and ``bias`` of the standard deviations."""
    scale = cov.diagonal().sqrt()
    assert ((x.mean(0) - mean).abs() < (4.5 / len(x) ** 0.5 + bias) * scale).all(), (x.mean(0), mean)
    gap = ((x.mT.cov() - cov) / (scale * scale[:, None])).abs()
    assert (gap < 4.5 * (2 / len(x)) ** 0.5 + 2 * bias).all(), gap


# The draw that agrees with the measurement.


@pytest.mark.parametrize(
    "op",
    [WIDE, Matrix(WIDE.matrix), Matrix(WIDE.matrix.T[:, :3], sigma_y=0.3), Mask(torch.tensor([1, 0, 1, 1]), sigma_y=0.3)],
    ids=["wide", "exact", "tall", "mask"],
)
def test_linear_draws_are_exact(op: LinearOperator) -> None:
    """The draw is affine in its noise: mean and covariance are read off, not estimated."""
    n, d = op.in_shape[0], op.out_shape[0]
    matrix, radius = dense_matrix(op.forward, op.in_shape, dtype=torch.float64, device=torch.device("cpu")), 0.7
    center, y = randn(1, n, seed=1), op(randn(1, n, seed=2)) + op.keep_measured(op.sigma_y * randn(1, d, seed=3))
    basis = torch.cat([torch.zeros(1, n + d), torch.eye(n + d)]).double()
    noise = [basis[:, :n], basis[:, n:]]
    rows = (y.expand(len(basis), -1), center.expand(len(basis), -1))
    x = draw_near(op, *rows, radius=radius, noise=GaussianNoise(op.sigma_y), steps=1, draw=lambda event: noise.pop(0))

    seen = radius**2 * matrix @ matrix.mT + op.sigma_y**2 * torch.eye(d).double()
    gain = radius**2 * matrix.mT @ torch.linalg.pinv(seen)
    assert_close(x[0], center[0] + gain @ (y[0] - matrix @ center[0]))
    root = (x[1:] - x[0]).mT
    assert_close(root @ root.mT, radius**2 * (torch.eye(n).double() - gain @ matrix))
    if op.sigma_y == 0:
        assert_close(op(x), y.expand(len(x), -1))


def test_langevin_draws_have_the_law_of_exact_ones() -> None:
    rows, radius = 4000, 0.7
    op = Function(lambda x: x @ WIDE.matrix.mT, (4,), sigma_y=0.2, dtype=torch.float64)
    center, y = randn(1, 4, seed=1), randn(1, 3, seed=2)
    draw = Fast(rows).normal
    x = draw_near(
        op,
        y.repeat(rows, 1),
        center.repeat(rows, 1),
        radius=radius,
        noise=GaussianNoise(0.5),
        steps=250,
        draw=lambda event: draw(event, dtype=torch.float64),
    )
    cov = torch.linalg.inv(WIDE.matrix.mT @ WIDE.matrix / 0.5**2 + EYE / radius**2)
    mean = cov @ (WIDE.matrix.mT @ y[0] / 0.5**2 + center[0] / radius**2)
    check_law(x, mean, cov, bias=0.01)
    with pytest.raises(AssertionError):
        check_law(x, mean + 0.1, cov, bias=0.01)
    with pytest.raises(AssertionError):
        check_law(x, mean, 1.2 * cov, bias=0.01)


@pytest.mark.parametrize("center", [0.3, 30.0])
def test_langevin_draws_of_a_nonlinear_measurement(center: float) -> None:
    """Against the integral. From far away too, where the function is flat and the first steps are far too large."""
    rows, sigma, radius = 4000, 0.1, 1.0 if center < 1 else 20.0
    op = Function(lambda x: torch.tanh(x) + 0.1 * x, (1,), sigma_y=sigma)
    draw = Fast(rows).normal
    y = torch.full((rows, 1), 0.5, dtype=torch.float64)
    x = draw_near(
        op,
        y,
        torch.full_like(y, center),
        radius=radius,
        noise=GaussianNoise(sigma),
        steps=250,
        draw=lambda event: draw(event, dtype=torch.float64),
    )
    grid = torch.linspace(-3, 5, 8001, dtype=torch.float64)[:, None]
    weights = (-0.5 * ((0.5 - op(grid)) / sigma) ** 2 - 0.5 * ((grid - center) / radius) ** 2).softmax(0)
    mean = (weights * grid).sum(0)
    check_law(x, mean, (weights * (grid - mean) ** 2).sum(0, keepdim=True), bias=0.02)


def test_langevin_draws_do_not_hide_what_is_not_finite() -> None:
    op = Function(lambda x: x / (x - x), (2,), sigma_y=0.2)
    x = draw_near(
        op, randn(3, 2), randn(3, 2), radius=1.0, noise=GaussianNoise(0.2), steps=3, draw=lambda event: randn(3, *event)
    )
    assert x.isnan().all()


@pytest.mark.parametrize("schedule", [VP(), EDM(), RectifiedFlow()], ids=lambda s: type(s).__name__)
def test_times_below(schedule: Schedule) -> None:
    smallest = float(schedule.ratio(schedule.t_min))
    for ratio in (10.0, 1.5 * smallest):
        levels = schedule.ratio(times_below(schedule, schedule.time(ratio), 5))
        low = min(smallest, ratio / 2)
        expected = [(ratio ** (1 / 7) + k / 4 * (low ** (1 / 7) - ratio ** (1 / 7))) ** 7 for k in range(5)]
        assert_close(levels, torch.tensor([*expected, 0.0], dtype=torch.float64), rtol=1e-6, atol=1e-12)
    assert_close(schedule.ratio(times_below(schedule, schedule.time(3.0), 1)), torch.tensor([3.0, 0.0], dtype=torch.float64))


# DAPS.


def white(variance: float, n: int = 2, schedule: Schedule | None = None) -> Gaussian:
    return Gaussian(torch.zeros(n).double(), torch.full((n,), variance).double(), schedule=schedule)


@pytest.mark.parametrize("schedule", [VP(), EDM()], ids=lambda s: type(s).__name__)
def test_daps_follows_the_ode(schedule: Schedule) -> None:
    """Of N(0, v) the ODE carries z to z sqrt(v / (v + ratio^2)); one step of it is the denoiser."""
    prior, t = white(0.25, schedule=schedule), schedule.time(2.0)
    x_t = float(schedule(t)[0]) * randn(3, 2)
    one = DAPS(prior, Identity((2,), sigma_y=0.1), randn(3, 2), ode_steps=1).follow_ode(x_t, t)
    assert_close(one, prior.denoise(x_t, t))
    many = DAPS(prior, Identity((2,), sigma_y=0.1), randn(3, 2), ode_steps=400).follow_ode(x_t, t)
    assert_close(many, randn(3, 2) * math.sqrt(0.25 / 4.25), rtol=2e-2, atol=0)


def test_one_level_of_daps_by_hand() -> None:
    """From ratio 2 to 1/2, y = 1.5 x + n with sigma 0.3, prior N(0, 1): one Euler step is z / 5."""
    prior, op = white(1.0, 1, EDM()), Matrix(torch.tensor([[1.5]], dtype=torch.float64), sigma_y=0.3)
    noise = [torch.full((1, 1), e, dtype=torch.float64) for e in (0.4, -0.7, 1.1, 0.9, 0.2, -0.3, 0.6)]
    y, times = torch.full((1, 1), 0.8, dtype=torch.float64), torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64)
    found = run(DAPS(prior, op, y, ode_steps=1), times, Scripted(noise))

    x_t = 2 * 0.4
    for ratio, after, (e_1, e_2, e_3) in ((2.0, 0.5, (-0.7, 1.1, 0.9)), (0.5, 0.0, (0.2, -0.3, 0.6))):
        center = x_t / (1 + ratio**2) + ratio * e_1
        seen = 0.8 + 0.3 * e_2
        x_0 = (1.5 * seen / 0.3**2 + center / ratio**2) / (1.5**2 / 0.3**2 + 1 / ratio**2)
        x_t = x_0 + after * e_3
    assert float(found) == pytest.approx(x_t, rel=1e-12)


@pytest.mark.parametrize("tau", [0.0, 0.8])
def test_daps_is_exact_for_a_flat_prior(tau: float) -> None:
    """There p(x_0 | x_t) is the Gaussian that DAPS assumes: the posterior is N(A^-1 y, tau^2 (A^T A)^-1)."""
    op = Matrix(torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=torch.float64), sigma_y=0.4)
    y = torch.tensor([[0.3, -1.0]], dtype=torch.float64).expand(4000, -1)
    prior = white(1e8, schedule=EDM())
    times = torch.tensor([50.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.0], dtype=torch.float64)
    x = run(DAPS(prior, op, y, tau=tau), times, Fast(4000))
    inverse = torch.linalg.inv(op.matrix)
    check_law(x, inverse @ y[0], (tau or 0.4) ** 2 * inverse @ inverse.mT)


# PnP-DM.


@pytest.mark.parametrize("schedule", [VP(), EDM()], ids=lambda s: type(s).__name__)
def test_stationary_law_of_pnp_dm(schedule: Schedule) -> None:
    r"""The posterior under noise sigma_y^2 I + rho^2 A A^T, which here is far from the posterior itself."""
    rho, rows = 0.5, 4000
    root = randn(3, 3, seed=4) / 2
    mean, cov = randn(3, seed=5), root @ root.mT + 0.1 * torch.eye(3).double()
    prior, op = Gaussian(mean, cov, schedule=schedule), Matrix(randn(2, 3, seed=6), sigma_y=0.3)
    y = randn(1, 2, seed=7).expand(rows, -1)
    times = schedule.time(torch.tensor([4.0, 1.0, 0.1, 0.0], dtype=torch.float64))
    pnp_dm = PnPDM(prior, op, y, prior_steps=60, rho_min=rho, extra_sweeps=12)
    x = run(pnp_dm, times, Fast(rows))

    def posterior(variance: Tensor) -> tuple[Tensor, Tensor]:
        gain = cov @ op.matrix.mT @ torch.linalg.inv(op.matrix @ cov @ op.matrix.mT + variance)
        return mean + gain @ (y[0] - op.matrix @ mean), cov - gain @ op.matrix @ cov

    noise = 0.3**2 * torch.eye(2).double()
    check_law(x, *posterior(noise + rho**2 * op.matrix @ op.matrix.mT), bias=0.03)
    for wrong in (noise, noise + 2 * rho**2 * op.matrix @ op.matrix.mT, noise + rho**2 * torch.eye(2).double()):
        with pytest.raises(AssertionError):
            check_law(x, *posterior(wrong), bias=0.03)


def test_pnp_dm_counts_its_sweeps() -> None:
    def evaluations(**options: Any) -> float:
        y = randn(1, 3)
        return PosteriorSampler(white(1.0, 4), WIDE, method="pnp-dm", steps=5, **options).run(y).nfe

    assert evaluations(prior_steps=7) == 35
    assert evaluations(prior_steps=7, extra_sweeps=2) == 49


# RED-diff.


def test_red_diff_by_hand() -> None:
    """Three steps of Adam on a mask that measures 2 of 4 numbers, prior N(0, 1/4), levels 2, 1 and 1/2."""
    op, y = Mask(torch.tensor([1, 0, 1, 0])), torch.tensor([[0.9, 0.0, -0.4, 0.0]], dtype=torch.float64)
    levels, noise = [2.0, 1.0, 0.5], [randn(1, 4, seed=seed) for seed in range(3)]
    times = torch.tensor([*levels, 0.0], dtype=torch.float64)
    algorithm = REDDiff(white(0.25, 4, EDM()), op, y, weight=0.7, power=2.0, lr=0.05)
    found = run(algorithm, times, Scripted(noise))

    mu, first, second = y[0].tolist(), [0.0] * 4, [0.0] * 4
    for k, ratio in enumerate(levels):
        for i, e in enumerate(noise[k][0].tolist()):
            eps_hat = ratio * (mu[i] + ratio * e) / (0.25 + ratio**2)
            gradient = 0.7 * ratio**2 * (eps_hat - e) / 4
            if i in (0, 2):
                gradient += (mu[i] - float(y[0, i])) / 2
            first[i] = 0.9 * first[i] + 0.1 * gradient
            second[i] = 0.99 * second[i] + 0.01 * gradient**2
            size = math.sqrt(second[i] / (1 - 0.99 ** (k + 1))) + 1e-8
            mu[i] -= 0.05 * first[i] / (1 - 0.9 ** (k + 1)) / size
    assert_close(found[0], torch.tensor(mu, dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_red_diff_fits_where_nothing_holds_it_back() -> None:
    op = Function(lambda x: torch.stack([x[:, 0] * x[:, 1], x[:, 0] + x[:, 2].exp()], 1), (3,))
    y = torch.tensor([[0.3, 2.0], [-0.5, 1.0]], dtype=torch.float64)
    x = run(REDDiff(white(1.0, 3, EDM()), op, y, weight=1e-3, lr=0.05), torch.linspace(1, 0, 300).double(), Fast(2))
    assert (norm(op(x) - y) < 0.02).all()


# What is refused, and what is published.


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("daps", {"ode_steps": 0}),
        ("daps", {"langevin_steps": 0}),
        ("daps", {"tau": -1.0}),
        ("pnp-dm", {"prior_steps": 0}),
        ("pnp-dm", {"rho_min": math.nan}),
        ("pnp-dm", {"extra_sweeps": -1}),
        ("pnp-dm", {"langevin_steps": 0}),
        ("red-diff", {"weight": -0.1}),
        ("red-diff", {"lr": 0.0}),
    ],
)
def test_refuses_options(method: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        PosteriorSampler(white(1.0, 4), WIDE, method=method, **options)


@pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")  # three steps
@pytest.mark.parametrize("method", ["daps", "pnp-dm"])
def test_refuses_exact_data_of_nonlinear_operators(method: str) -> None:
    op = Function(torch.tanh, (4,))
    with pytest.raises(ValueError, match=r"needs noise in the measurement .* got Function with sigma_y = 0"):
        PosteriorSampler(white(1.0, 4), op, method=method)
    if method == "daps":  # There the noise may be stated by itself.
        assert PosteriorSampler(white(1.0, 4), op, method=method, tau=0.1, steps=3).run(randn(1, 4)).samples.isfinite().all()


@pytest.mark.parametrize("method", ["daps", "pnp-dm"])
def test_names_the_item_that_diverges(method: str) -> None:
    y = torch.zeros(3, 3)
    y[2] = 1e12
    with pytest.raises(DivergenceError, match=r"item 2 diverged at step \d of 5"):
        PosteriorSampler(white(1e30, 4), WIDE, method=method, steps=5, ratio_max=100.0).run(y)


@pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")  # three steps
@pytest.mark.parametrize("method", ["daps", "pnp-dm", "red-diff"])
def test_published_settings_run(method: str) -> None:
    for preset in PRESETS[method].values():
        settings: dict[str, Any] = dict(preset.settings) | {"steps": 3}
        assert PosteriorSampler(white(1.0, 4), WIDE, method=method, **settings).run(randn(1, 3)).samples.isfinite().all()
