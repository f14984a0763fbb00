"""The requirement the library stands on: samples agree with posteriors that are known exactly, and only with their own."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from cases import build
from helpers import norm, randn
from torch import Tensor

from invdiff import Posterior, PosteriorSampler
from invdiff.linalg import dense_matrix
from invdiff.methods import RULES
from invdiff.operators import Blur, Downsample, GaussianNoise, LinearOperator, Mask, Matrix, gaussian_kernel
from invdiff.posterior.recommended import recommended_chain
from invdiff.priors import Gaussian, GaussianMixture
from invdiff.problems import PROBLEMS, Problem
from invdiff.schedules import EDM

pytestmark = pytest.mark.slow

STANDARD_ERRORS = 4.5  # Bonferroni: 1e-5 for one coordinate, far below a percent for all


def check_moments(samples: Tensor, mean: Tensor, variance: Tensor, *, allowed: tuple[float, float] = (0.9, 1.1)) -> None:
    """Raise unless the mean agrees within its Monte Carlo error and every variance within a ratio of ``allowed``.

    Args:
        samples: ``(N, n)``.
        mean: Exact mean, ``(n,)``.
        variance: Exact variances, ``(n,)``.
        allowed: Bounds of sample variance over exact variance.
    """
    z = (samples.mean(0) - mean) / (variance / len(samples)).sqrt()
    assert z.abs().max() < STANDARD_ERRORS, f"mean off by {float(z.abs().max()):.1f} standard errors"
    ratio = samples.var(0) / variance
    assert ratio.min() > allowed[0], f"variance ratio {float(ratio.min()):.3f}"
    assert ratio.max() < allowed[1], f"variance ratio {float(ratio.max()):.3f}"


@cache
def vectors() -> tuple[Gaussian, Matrix, Tensor]:
    """Return a Gaussian prior on 12 numbers, a random 5 x 12 operator and the measurements of two draws."""
    root = randn(12, 12, seed=1) / 12**0.5
    prior = Gaussian(randn(12, seed=2), root @ root.mT + 0.05 * torch.eye(12))
    op = Matrix(randn(5, 12, seed=3), sigma_y=0.2)
    return prior, op, op.measure(prior.sample(2, seed=4), seed=5)


@cache
def default_run() -> Posterior:
    prior, op, y = vectors()
    return PosteriorSampler(prior, op, steps=30).run(y[:1].float(), num_samples=4000, seed=1)


class TestDefaultMethod:
    def test_moments(self) -> None:
        prior, op, y = vectors()
        exact = prior.posterior(op, y[:1])
        check_moments(default_run().samples[:, 0].double(), exact.mean[0], exact.covariance().diagonal())

    def test_the_check_fails_for_another_measurement(self) -> None:
        prior, op, y = vectors()
        other = prior.posterior(op, y[1:])
        with pytest.raises(AssertionError, match="mean off"):
            check_moments(default_run().samples[:, 0].double(), other.mean[0], other.covariance().diagonal())

    def test_the_check_fails_for_the_prior(self) -> None:
        prior, op, y = vectors()
        exact = prior.posterior(op, y[:1])
        with pytest.raises(AssertionError, match="mean off"):
            check_moments(prior.sample(4000, seed=0), exact.mean[0], exact.covariance().diagonal())

    def test_correlations(self) -> None:
        prior, op, y = vectors()
        cov = prior.posterior(op, y[:1]).covariance()
        scale = cov.diagonal().sqrt()
        found = torch.corrcoef(default_run().samples[:, 0].double().mT)
        assert (found - cov / scale / scale[:, None]).abs().max() < 0.1

    def test_residuals_over_problems_are_chi_square(self) -> None:
        prior, op, _ = vectors()
        y = op.measure(prior.sample(1000, seed=7), seed=8)
        post = PosteriorSampler(prior, op, steps=30).run(y.float())
        # 5 degrees of freedom: mean 5, standard deviation sqrt(10).
        assert abs(float(post.residual.mean()) - 5) < STANDARD_ERRORS * (10 / 1000) ** 0.5
        assert float(post.residual.var()) == pytest.approx(10, rel=0.3)


# Images, on the iterative path, with every step rule.

SHAPE = (1, 8, 8)
# By how much the discretisation may shrink the spread: first-order rules do, even with the exact conditional mean.
SHRINKAGE = {"ddpm": 0.12, "ddim": 0.08, "heun": 0.04, "matched": 0.04}


@cache
def image_prior() -> Gaussian:
    rows, columns = torch.fft.fftfreq(8, dtype=torch.float64), torch.fft.rfftfreq(8, dtype=torch.float64)
    spectrum = 0.02 / (0.02 + rows[:, None] ** 2 + columns**2)
    return Gaussian.stationary(torch.full(SHAPE, 0.2, dtype=torch.float64), spectrum.expand(1, 8, 5))


def image_operators() -> list[Any]:
    known = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) < 0.5
    ops: list[LinearOperator] = [
        Mask(known, sigma_y=0.1),
        Blur(SHAPE, gaussian_kernel(0.7), sigma_y=0.1),
        Downsample(SHAPE, 2, sigma_y=0.1),
    ]
    return [pytest.param(op, id=type(op).__name__) for op in ops]


@pytest.mark.parametrize("op", image_operators())
@pytest.mark.parametrize("rule", RULES)
def test_images(op: LinearOperator, rule: str) -> None:
    prior = image_prior()
    y, other = (op.measure(prior.sample(1, seed=s), seed=s + 1) for s in (4, 14))
    options: dict[str, Any] = {
        "rtol": 1e-3,
        "max_iterations": 60,
        "ratio_max": 20.0,
        "steps": 30 if rule in ("heun", "matched") else 80,
    }
    post = PosteriorSampler(prior, op, method="mmps", rule=rule, **options).run(y.float(), num_samples=400)
    exact = prior.posterior(op, y)
    samples, cov = post.samples[:, 0].flatten(1).double(), exact.covariance()
    # The variance of a single pixel has a Monte Carlo error of 7 %, their mean one of 1 to 2 %.
    check_moments(samples, exact.mean[0].flatten(), cov.diagonal(), allowed=(0.55, 1.4))
    assert float((samples.var(0) / cov.diagonal()).mean()) == pytest.approx(1, abs=SHRINKAGE[rule])

    matrix = dense_matrix(op.forward, op.in_shape, dtype=torch.float64, device=torch.device("cpu"))
    expected = float(norm(y - op(exact.mean)) ** 2 + (matrix @ cov @ matrix.mT).trace()) / op.sigma_y**2
    error = float(post.residual.std()) / len(samples) ** 0.5
    assert abs(float(post.residual.mean()) - expected) < STANDARD_ERRORS * error + SHRINKAGE[rule] * expected

    with pytest.raises(AssertionError, match="mean off"):
        check_moments(samples, prior.posterior(op, other).mean[0].flatten(), cov.diagonal())


@pytest.mark.parametrize("rule", RULES)
def test_a_mixture_is_pulled_towards_its_exact_posterior(rule: str) -> None:
    """Moment matching is approximate for two modes, but it has to find the one that was measured."""
    means = torch.tensor([[1.5, 1.5, -1.0, 0.0], [-1.5, -1.0, 1.0, 0.5]], dtype=torch.float64)
    prior = GaussianMixture(torch.tensor([0.5, 0.5]).double(), means, 0.1 * torch.eye(4).double().expand(2, 4, 4))
    op = Matrix(torch.tensor([[1.0, 0.2, 0.0, 0.0]]), sigma_y=0.3)
    y = op(means)  # Item 0 is of mode 0, item 1 of mode 1.
    post = PosteriorSampler(prior, op, rule=rule, steps=60).run(y, num_samples=200)
    exact = prior.posterior(op, y)
    expected = (exact.weights.unsqueeze(-1) * exact.means).sum(1)
    prior_mean = (prior.weights @ prior.means).expand(2, 4)
    assert (norm(post.mean - expected) < 0.25 * norm(prior_mean - expected)).all()
    assert (norm(post.mean - prior_mean) > 0.75 * norm(expected - prior_mean)).all()


def is_gaussian(cls: type[Problem]) -> bool:
    """Whether the posterior of a problem under a Gaussian prior is Gaussian."""
    example = build(cls)[0]
    height, width = example.size or (16, 24)
    op = example.operator((3, height, width))
    return isinstance(op, LinearOperator) and op.noise.gaussian


@pytest.mark.parametrize("cls", filter(is_gaussian, PROBLEMS.values()), ids=lambda cls: cls.name)
def test_what_is_recommended_for_photographs_keeps_the_spread(cls: type[Problem]) -> None:
    """Sixteen matched steps: the variance within 8 %, where twelve of second order gain 15 % and first order loses 30 %."""
    problem = build(cls)[0]
    height, width = problem.size or (16, 24)
    rows, columns = torch.fft.fftfreq(height, dtype=torch.float64), torch.fft.rfftfreq(width, dtype=torch.float64)
    spectrum = (0.02 / (0.02 + rows[:, None] ** 2 + columns**2)).expand(3, height, width // 2 + 1)
    prior = Gaussian.stationary(torch.zeros(3, height, width, dtype=torch.float64), spectrum, schedule=EDM())
    prior.learned = True
    op = problem.operator((3, height, width), noise=GaussianNoise(0.04))
    assert isinstance(op, LinearOperator)
    y = op.measure(prior.sample(1, seed=1), seed=2)
    variance = prior.posterior(op, y).covariance().diagonal()

    def ratio(**settings: Any) -> float:
        samples = PosteriorSampler(prior, op, **{**recommended_chain(prior, op), **settings}).run(y, num_samples=40).samples
        return float((samples.var(0).flatten() / variance).mean())

    assert ratio() == pytest.approx(1, abs=0.08)
    assert ratio(rule="heun", steps=12) > 1.08
    assert ratio(rule="ddpm", steps=20) < 0.8
