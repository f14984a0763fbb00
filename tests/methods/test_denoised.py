"""What the loop hands over: one evaluation of the network, products with its Jacobian, and the kernel of DDPM."""

from __future__ import annotations

import math

import pytest
import torch
from cases import build
from helpers import randn
from torch import Tensor
from torch.testing import assert_close

from invdiff.methods.ddpm_kernel import ddpm_kernel
from invdiff.methods.denoised import Denoised, prior_mean
from invdiff.methods.steps import DDIM, RULES
from invdiff.priors import Gaussian, GaussianMixture, ScoreModel
from invdiff.schedules import EDM, VP, RectifiedFlow, Schedule

MIXTURE = build(GaussianMixture)[0]
T, S = VP().time(torch.tensor([0.7, 0.4]).double())
SCHEDULES = pytest.mark.parametrize("schedule", [VP(), EDM(), RectifiedFlow()], ids=lambda s: type(s).__name__)


class Counting(ScoreModel):
    def __init__(self) -> None:
        self.schedule, self.calls = MIXTURE.schedule, 0

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return MIXTURE.denoise(x_t, t)


def test_the_network_is_evaluated_once_and_only_if_it_is_asked() -> None:
    score, x_t = Counting(), randn(3, 4)
    at = Denoised(score, x_t, T, differentiable=True)
    assert (score.calls, at.estimate) == (0, None)
    assert_close(at.x0_hat, MIXTURE.denoise(x_t, T))
    for _ in range(3):
        at.vjp(randn(3, 4, seed=1))
        assert at.estimate is at.x0_hat
    assert score.calls == 1
    assert not at.x0_hat.requires_grad


def test_products_are_those_of_the_jacobian() -> None:
    x_t, v = randn(3, 4), randn(3, 4, seed=1)
    at = Denoised(MIXTURE, x_t, T, differentiable=True)
    expected = torch.func.vjp(lambda x: MIXTURE.denoise(x, T), x_t)[1](v)[0]
    assert_close(at.vjp(v), expected)
    alpha, sigma = MIXTURE.schedule(T)
    assert_close(at.covariance(v), sigma**2 / alpha * expected)
    assert (at.alpha_t, at.sigma_t, at.ratio) == pytest.approx((float(alpha), float(sigma), 0.7))
    with pytest.raises(RuntimeError, match="no graph was kept"):
        Denoised(MIXTURE, x_t, T).vjp(v)


def test_a_released_graph_is_made_anew_where_it_is_needed() -> None:
    score, v = Counting(), randn(3, 4, seed=1)
    at = Denoised(score, randn(3, 4), T, differentiable=True)
    expected, x0_hat = at.vjp(v), at.x0_hat
    assert at.release() is at
    assert at.x0_hat is x0_hat
    assert score.calls == 1
    assert_close(at.vjp(v), expected)
    assert score.calls == 2


def test_rows_are_evaluated_anew_only_for_their_products() -> None:
    score, rows, v = Counting(), torch.tensor([2, 0, 0]), randn(3, 4, seed=1)
    at = Denoised(score, randn(3, 4), T, differentiable=True)
    whole, product = at.x0_hat, at.vjp(v[rows.argsort()])
    taken = at.take(rows)
    assert_close(taken.x0_hat, whole[rows])
    assert score.calls == 2
    assert taken.vjp(v).shape == product.shape
    assert at.release().take(rows).x0_hat.shape == (3, 4)
    assert score.calls == 2


def test_elsewhere_keeps_a_graph_only_where_products_are_taken_everywhere() -> None:
    x_t, v = randn(3, 4), randn(3, 4, seed=1)
    one, both = (Denoised(MIXTURE, x_t, T, differentiable=True, everywhere=everywhere) for everywhere in (False, True))
    assert_close(both.elsewhere(x_t, T).vjp(v), both.vjp(v))
    assert_close(one.elsewhere(x_t, S).x0_hat, MIXTURE.denoise(x_t, S))
    with pytest.raises(RuntimeError, match="no graph was kept"):
        one.elsewhere(x_t, S).vjp(v)


@SCHEDULES
def test_the_kernel_keeps_the_distribution_of_every_level(schedule: Schedule) -> None:
    """If x_t has the moments of its level given x_0, so has x_s: a alpha_t + b = alpha_s, and likewise for variances."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (map(float, schedule(schedule.time(ratio))) for ratio in (0.7, 0.4))
    a, b, variance = ddpm_kernel((alpha_t, sigma_t), (alpha_s, sigma_s))
    assert a * alpha_t + b == pytest.approx(alpha_s)
    assert (a * sigma_t) ** 2 + variance == pytest.approx(sigma_s**2)
    # The backward kernel of x_t = (alpha_t / alpha_s) x_s + noise, by Bayes' rule.
    forward = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
    assert variance == pytest.approx(1 / ((alpha_t / alpha_s) ** 2 / forward + 1 / sigma_s**2))


@SCHEDULES
def test_ancestral_steps_are_draws_of_the_kernel(schedule: Schedule) -> None:
    prior, noise = Gaussian(torch.zeros(4).double(), torch.ones(4).double(), schedule=schedule), randn(3, 4, seed=1)
    t, s = schedule.time(torch.tensor([0.7, 0.4]).double())
    at = Denoised(prior, randn(3, 4), t)
    a, b, variance = ddpm_kernel((at.alpha_t, at.sigma_t), at.levels(s))
    expected = a * at.x_t + b * at.x0_hat + math.sqrt(variance) * noise
    assert_close(DDIM(eta=1.0)(prior_mean, at, s, noise), expected)
    assert_close(RULES["ddpm"](prior_mean, at, s, noise), expected)
