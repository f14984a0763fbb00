"""Laws of every noise schedule and of the time grids, then the formula of each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from cases import over, selected
from scipy.integrate import quad
from torch import Tensor
from torch.testing import assert_close

from invdiff.schedules import (
    EDM,
    SPACINGS,
    VE,
    VP,
    Cosine,
    DiscreteBetas,
    RectifiedFlow,
    Schedule,
    SubVP,
    time_grid,
)

EVERY = over("schedule", selected(Schedule), rest="quick")


def inner_times(schedule: Schedule, count: int = 400) -> Tensor:
    return torch.linspace(schedule.t_min, schedule.t_max, count, dtype=torch.float64)


@EVERY
class TestEverySchedule:
    def test_levels_are_in_range_and_monotone(self, schedule: Schedule) -> None:
        alpha, sigma = schedule(inner_times(schedule))
        assert ((alpha > 0) & (alpha <= 1)).all()
        assert (sigma >= 0).all()
        assert (alpha.diff() <= 0).all()
        assert (sigma.diff() >= 0).all()
        assert (schedule.ratio(inner_times(schedule)).diff() > 0).all()

    def test_time_inverts_ratio(self, schedule: Schedule) -> None:
        t = inner_times(schedule)
        assert_close(schedule.time(schedule.ratio(t)), t, rtol=1e-9, atol=1e-9)

    def test_ratio_inverts_time(self, schedule: Schedule) -> None:
        low, high = float(schedule.ratio(schedule.t_min)), float(schedule.ratio(schedule.t_max))
        ratio = torch.logspace(math.log10(max(low, 1e-6)), math.log10(high), 300, dtype=torch.float64)
        assert_close(schedule.ratio(schedule.time(ratio)), ratio, rtol=1e-9, atol=0)

    def test_the_noise_free_end_is_exact(self, schedule: Schedule) -> None:
        alpha, sigma = schedule(schedule.time(0.0))
        assert (float(alpha), float(sigma)) == (1.0, 0.0)

    def test_shapes_and_dtype(self, schedule: Schedule) -> None:
        for t in (0.5 * (schedule.t_min + schedule.t_max), inner_times(schedule)[:6].reshape(2, 3).float()):
            alpha, sigma = schedule(t)
            expected = torch.as_tensor(t).shape
            assert alpha.shape == sigma.shape == schedule.time(sigma / alpha).shape == expected
            assert alpha.dtype == sigma.dtype == torch.float64

    def test_an_argument_is_not_modified(self, schedule: Schedule) -> None:
        t = inner_times(schedule)
        schedule(t)
        schedule.time(schedule.ratio(t))
        assert torch.equal(t, inner_times(schedule))

    @pytest.mark.parametrize("spacing", SPACINGS)
    @pytest.mark.parametrize("steps", [1, 2, 37])
    def test_grid(self, schedule: Schedule, spacing: str, steps: int) -> None:
        times = time_grid(schedule, steps, spacing=spacing)
        assert times.shape == (steps + 1,)
        assert times.dtype == torch.float64
        assert (times.diff() < 0).all()
        ratios = schedule.ratio(times)
        assert float(ratios[-1]) == 0
        assert_close(ratios[0], schedule.ratio(schedule.t_max), rtol=1e-9, atol=0)
        if steps > 1:
            assert_close(ratios[-2], schedule.ratio(schedule.t_min), rtol=1e-6, atol=0)

    def test_grid_between_given_ratios(self, schedule: Schedule) -> None:
        for spacing in SPACINGS:
            ratios = schedule.ratio(time_grid(schedule, 20, spacing=spacing, ratio_min=0.05, ratio_max=7.0))
            assert_close(ratios[[0, -2]], torch.tensor([7.0, 0.05], dtype=torch.float64), rtol=1e-9, atol=0)

    def test_spacings_are_what_they_say(self, schedule: Schedule) -> None:
        span = {"ratio_min": 0.02, "ratio_max": 20.0}
        log_ratios = schedule.ratio(time_grid(schedule, 30, spacing="log-snr", **span))[:-1].log()  # type: ignore[arg-type]
        assert_close(log_ratios.diff(), torch.full_like(log_ratios[1:], math.log(0.02 / 20) / 29), rtol=1e-7, atol=0)
        times = time_grid(schedule, 30, spacing="uniform", **span)[:-1]  # type: ignore[arg-type]
        assert_close(times.diff(), times.diff()[:1].expand(29), rtol=1e-9, atol=0)
        karras = schedule.ratio(time_grid(schedule, 30, spacing="karras", rho=5.0, **span))  # type: ignore[arg-type]
        expected = [(20 ** (1 / 5) + i / 29 * (0.02 ** (1 / 5) - 20 ** (1 / 5))) ** 5 for i in range(30)]
        assert_close(karras[:-1], torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=0)


class TestGridErrors:
    @pytest.mark.parametrize("steps", [0, -3])
    def test_steps(self, steps: int) -> None:
        with pytest.raises(ValueError, match="steps must be at least 1"):
            time_grid(VP(), steps)

    def test_spacing(self) -> None:
        with pytest.raises(ValueError, match="unknown spacing 'sqrt', expected one of log-snr"):
            time_grid(VP(), 4, spacing="sqrt")

    @pytest.mark.parametrize(
        ("low", "high"), [(0.0, 1.0), (1.0, 0.5), (1.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (0.1, math.inf)]
    )
    def test_ratios(self, low: float, high: float) -> None:
        with pytest.raises(ValueError, match="0 < ratio_min < ratio_max < inf"):
            time_grid(VP(), 4, ratio_min=low, ratio_max=high)

    def test_rho(self) -> None:
        with pytest.raises(ValueError, match="rho must be positive"):
            time_grid(VP(), 4, spacing="karras", rho=0.0)


T = torch.linspace(1e-3, 0.99, 50, dtype=torch.float64)


@pytest.mark.parametrize("schedule", [VP(), Cosine(), DiscreteBetas.linear()], ids=lambda s: type(s).__name__)
def test_variance_preserving(schedule: Schedule) -> None:
    alpha, sigma = schedule(inner_times(schedule))
    assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=1e-12, atol=0)


@pytest.mark.parametrize("betas", [(0.1, 20.0), (2.0, 2.0)])
def test_vp_integrates_beta(betas: tuple[float, float]) -> None:
    low, high = betas
    integral = [quad(lambda u: low + u * (high - low), 0, float(t), epsabs=1e-13)[0] for t in T]
    expected = torch.tensor(integral, dtype=torch.float64).mul(-0.5).exp()
    assert_close(VP(low, high)(T)[0], expected, rtol=1e-10, atol=0)
    alpha, sigma = SubVP(low, high)(T)
    assert_close(alpha, expected, rtol=1e-10, atol=0)
    assert_close(sigma, 1 - expected**2, rtol=1e-10, atol=1e-14)


def test_cosine_formula() -> None:
    f = torch.cos((T + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert_close(Cosine(0.008)(T)[0], f.sqrt(), rtol=1e-12, atol=0)
    assert_close(Cosine(0.008)(T)[1], (1 - f).sqrt(), rtol=1e-9, atol=0)


def test_exploding_and_straight_formulas() -> None:
    one = torch.ones_like(T)
    assert_close(VE(0.01, 50.0)(T), (one, 0.01 * (50 / 0.01) ** T))
    assert_close(EDM()(T), (one, T))
    assert_close(RectifiedFlow()(T), (1 - T, T))


def test_discrete_betas_are_the_table_at_integers() -> None:
    betas = np.linspace(1e-4, 0.02, 1000)
    schedule = DiscreteBetas(betas)
    alpha, sigma = schedule(torch.arange(1000))
    alpha_bar = torch.from_numpy(np.cumprod(1 - betas))
    assert_close(alpha**2, alpha_bar, rtol=1e-10, atol=0)
    assert_close(sigma**2, 1 - alpha_bar, rtol=1e-9, atol=0)
    log_ratios = schedule.ratio(torch.arange(1000)).log()
    assert_close(schedule.ratio(torch.arange(999) + 0.25).log(), torch.lerp(log_ratios[:-1], log_ratios[1:], 0.25))


@pytest.mark.parametrize(
    "build",
    [
        lambda: VP(0.0, 1.0),
        lambda: VP(2.0, 1.0),
        lambda: SubVP(2.0, 1.0),
        lambda: Cosine(-0.1),
        lambda: VE(1.0, 0.5),
        lambda: EDM(0.0, 1.0),
        lambda: DiscreteBetas([0.1]),
        lambda: DiscreteBetas([0.1, 1.0]),
        lambda: DiscreteBetas([[0.1, 0.2]]),  # type: ignore[list-item]
        lambda: DiscreteBetas([]),
    ],
)
def test_refuses_bad_parameters(build: Any) -> None:
    with pytest.raises(ValueError, match=r"expected 0 <|must"):
        build()
