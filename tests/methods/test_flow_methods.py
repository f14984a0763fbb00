"""Methods for flows: a step of each against the formulas of its paper, with velocities and time from noise to data."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import randn
from torch import Tensor
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.methods import METHODS, RULES
from invdiff.methods.flow_time import flow_time
from invdiff.methods.steps.reverse import advance
from invdiff.operators import Matrix
from invdiff.priors import GaussianMixture
from invdiff.schedules import EDM, VP, RectifiedFlow, time_grid

SIGMA = 0.3
OP = Matrix(randn(3, 4), sigma_y=SIGMA)
A = OP.matrix
PRIOR = GaussianMixture(
    torch.ones(2, dtype=torch.float64), randn(2, 4, seed=1), 0.2 + randn(2, 4, seed=2) ** 2, schedule=RectifiedFlow()
)
X, Y, NOISE = randn(5, 4, seed=3), randn(5, 3, seed=4), randn(5, 4, seed=5)
T, NEXT = 0.6, 0.7  # of the papers: 0 is noise, 1 is data


def velocity(x: Tensor, t: float) -> Tensor:
    """Return the velocity of the flow from noise to data."""
    u = torch.tensor(1 - t, dtype=torch.float64)
    return (PRIOR.denoise(x, u) - x) / (1 - t)


def at(method: str, **options: Any) -> tuple[Any, Any]:
    guidance: Any = METHODS[method].algorithm(PRIOR, OP, Y, **options)
    return guidance, guidance.at(X, torch.tensor(1 - T, dtype=torch.float64))


def draws(*noises: Tensor) -> Any:
    remaining = list(noises)
    return lambda event: remaining.pop(0)


S = torch.tensor(1 - NEXT, dtype=torch.float64)


@pytest.mark.parametrize("weighted", [False, True])
def test_ot_ode(weighted: bool) -> None:
    guidance, here = at("ot-ode", weighted=weighted)
    found, _ = advance(guidance, RULES["ddim"], here, S, draws(NOISE))
    x = X.clone().requires_grad_()
    x1_hat = x + (1 - T) * velocity(x, T)
    r2 = (1 - T) ** 2 / (T**2 + (1 - T) ** 2)
    w = torch.linalg.solve(r2 * A @ A.mT + SIGMA**2 * torch.eye(3, dtype=torch.float64), (Y - x1_hat.detach() @ A.mT).mT).mT
    (g,) = torch.autograd.grad(x1_hat, x, w @ A)
    gamma = (T / (T**2 + (1 - T) ** 2)) ** 0.5 if weighted else 1.0
    assert_close(found, X + (NEXT - T) * (velocity(X, T) + (1 - T) / T * gamma * g))


def test_ot_ode_starts_near_the_measurement() -> None:
    guidance, _ = at("ot-ode")
    start = guidance.start(torch.tensor(0.8, dtype=torch.float64), draws(NOISE))
    wiener = torch.linalg.solve(A @ A.mT + SIGMA**2 * torch.eye(3, dtype=torch.float64), Y.mT).mT @ A
    assert_close(start, 0.2 * wiener + 0.8 * NOISE)
    plan = PosteriorSampler(PRIOR, OP, method="ot-ode", steps=8).run(Y[:1], num_samples=1)
    assert plan.options["ratio_max"] == pytest.approx(4.0)


def test_flow_dps() -> None:
    guidance, here = at("flow-dps", iterations=3, zeta=0.7)
    v, sigma, sigma_next = -velocity(X, T), 1 - T, 1 - NEXT  # The paper's time runs from data to noise.
    clean, noise = X - sigma * v, X + (1 - sigma) * v
    moved = clean
    for _ in range(3):
        moved = moved + 0.7 / torch.linalg.matrix_norm(A, 2) ** 2 * (Y - moved @ A.mT) @ A
    clean = (1 - sigma) * clean + sigma * moved
    noise = sigma_next**0.5 * noise + (1 - sigma_next) ** 0.5 * NOISE
    assert_close(
        guidance.transition(here, S, draws(NOISE)), (1 - sigma_next) * clean + sigma_next * noise, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("drawn", [False, True])
def test_flower(drawn: bool) -> None:
    guidance, here = at("flower", draws=drawn)
    e_1, e_2 = randn(5, 4, seed=6), randn(5, 3, seed=7)
    found = guidance.transition(here, S, draws(NOISE, *((e_1, e_2) if drawn else ())))
    x1_hat, nu2 = X + (1 - T) * velocity(X, T), (1 - T) ** 2 / (T**2 + (1 - T) ** 2)
    precision = A.mT @ A / SIGMA**2 + torch.eye(4, dtype=torch.float64) / nu2
    center, y = (x1_hat + nu2**0.5 * e_1, Y + SIGMA * e_2) if drawn else (x1_hat, Y)
    refined = torch.linalg.solve(precision, (y @ A / SIGMA**2 + center / nu2).mT).mT
    assert_close(found, NEXT * refined + (1 - NEXT) * NOISE)


def test_the_draw_of_flower_has_the_moments_of_its_gaussian() -> None:
    count = 20_000
    algorithm: Any = METHODS["flower"].algorithm
    guidance = algorithm(PRIOR, OP, Y[:1].expand(count, -1), draws=True)
    here = guidance.at(X[:1].expand(count, -1), torch.tensor(1 - T, dtype=torch.float64))
    g = torch.Generator().manual_seed(0)
    drawn = guidance.refined(here, lambda event: torch.randn(count, *event, generator=g, dtype=torch.float64))
    nu2 = (1 - T) ** 2 / (T**2 + (1 - T) ** 2)
    expected = torch.linalg.inv(A.mT @ A / SIGMA**2 + torch.eye(4, dtype=torch.float64) / nu2)
    spread = expected.diagonal().sqrt()
    gap = (drawn.mT.cov() - expected).abs() / (spread[:, None] * spread)
    assert gap.max() < 5 * (2 / count) ** 0.5


@pytest.mark.parametrize("averages", [1, 2])
def test_pnp_flow(averages: int) -> None:
    """Two steps, on the path of the paper."""
    noises = [randn(5, 4, seed=10 + k) for k in range(2 * averages)]
    remaining = list(noises)
    streams: Any = SimpleNamespace(normal=lambda event, dtype: remaining.pop(0))
    algorithm: Any = METHODS["pnp-flow"].algorithm
    method = algorithm(PRIOR, OP, Y, zeta=0.7, power=0.5, averages=averages)
    times = 1 - torch.tensor([T, NEXT, 1.0], dtype=torch.float64)
    found = method.sample(times, streams=streams, on_step=lambda *_: None)
    x = torch.zeros_like(X)
    for number, t in enumerate((T, NEXT)):
        z = x + 0.7 / torch.linalg.matrix_norm(A, 2) ** 2 * (1 - t) ** 0.5 * (Y - x @ A.mT) @ A
        x = torch.zeros_like(X)
        for noise in noises[number * averages : (number + 1) * averages]:
            noisy = t * z + (1 - t) * noise
            x = x + (noisy + (1 - t) * velocity(noisy, t)) / averages
    assert_close(found, x, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:misfit")
@pytest.mark.parametrize("method", ["ot-ode", "flow-dps", "flower", "pnp-flow"])
def test_the_schedule_does_not_matter(method: str) -> None:
    """The same levels of a prior with another path give the same samples: any prior is a flow."""
    found = []
    for schedule in (RectifiedFlow(), VP(), EDM()):
        prior = GaussianMixture(PRIOR.weights, PRIOR.means, PRIOR.covs, schedule=schedule)
        sampler = PosteriorSampler(prior, OP, method=method, steps=20, ratio_max=4.0, ratio_min=0.05)
        found.append(sampler.run(Y[:1], num_samples=3).samples)
    for other in found[1:]:
        assert_close(other, found[0], rtol=1e-6, atol=1e-6)


def test_the_spacing_is_that_of_the_flow() -> None:
    for schedule in (RectifiedFlow(), VP(), EDM()):
        times = time_grid(schedule, 5, spacing="flow", ratio_min=0.1, ratio_max=4.0)
        u = torch.tensor([flow_time(*schedule.levels(t)) for t in times], dtype=torch.float64)
        assert_close(u, torch.tensor([*torch.linspace(0.8, 0.1 / 1.1, 5, dtype=torch.float64), 0.0]), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("flow-dps", {"iterations": 0}),
        ("flow-dps", {"zeta": 0.0}),
        ("pnp-flow", {"averages": 0}),
        ("pnp-flow", {"power": -1.0}),
    ],
)
def test_wrong_options_are_refused(method: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        METHODS[method].algorithm(PRIOR, OP, Y, **options)
