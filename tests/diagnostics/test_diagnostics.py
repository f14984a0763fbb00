"""Diagnostics: exact samples pass, and each kind of wrong ones is found by the quantity that can see it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from cases import build
from helpers import dot, randn
from scipy import stats
from torch import Tensor
from torch.testing import assert_close

from invdiff import Posterior, PosteriorSampler
from invdiff.diagnostics import (
    Calibration,
    calibrate,
    chain_ess,
    coverage,
    distance,
    ess,
    kernel_stein,
    log_posterior,
    log_prior,
    misfit,
    posterior_score,
    rank_test,
    ranks,
    reference_points,
    residual_test,
    scales,
)
from invdiff.diagnostics.ranks import merge_repeats, rank_bounds
from invdiff.diagnostics.stein import stein_kernel, sticky_signs
from invdiff.operators import Function, Identity, LinearOperator, Mask, Matrix
from invdiff.priors import Gaussian, GaussianMixture, from_network
from invdiff.schedules import EDM

pytestmark = pytest.mark.slow

Samples = Callable[[Tensor, int], Tensor]


@cache
def setting() -> tuple[Gaussian, Matrix]:
    """Return a Gaussian prior on 12 numbers and a random 5 x 12 operator."""
    root = randn(12, 12, seed=1) / 12**0.5
    prior = Gaussian(randn(12, seed=2), root @ root.mT + 0.05 * torch.eye(12).double())
    return prior, Matrix(randn(5, 12, seed=3), sigma_y=0.2)


class Drawing:
    """A sampler made of a function from measurements and a number of samples to samples."""

    def __init__(self, draw: Samples, prior: Any = None) -> None:
        self.score: Any
        self.op: LinearOperator
        self.score, self.op = setting()
        self.score = prior or self.score
        self.draw = draw

    def run(self, y: Tensor, *, num_samples: int, seed: int, progress: bool) -> Posterior:
        x = self.draw(y, num_samples)
        misfits = torch.stack([misfit(self.op, part, y) for part in x])
        equal = torch.full(x.shape[:2], 1 / num_samples).to(y)
        return Posterior(x, equal, misfits / self.op.sigma_y**2, self.op.dof, 0, 0, 0, "drawn", seed, {})


def exact(y: Tensor, count: int) -> Tensor:
    prior, op = setting()
    return prior.posterior(op, y).sample(count, seed=99)


def scaled(factor: float) -> Samples:
    """Return exact samples with a wrong spread about the right mean."""
    prior, op = setting()
    return lambda y, count: torch.lerp(prior.posterior(op, y).mean.expand(count, -1, -1), exact(y, count), factor)


def ignoring(y: Tensor, count: int) -> Tensor:
    prior, _ = setting()
    return prior.sample(count * len(y), seed=98).reshape(count, len(y), 12)


def biased(y: Tensor, count: int) -> Tensor:
    """Return exact samples shifted along a direction that is not measured."""
    _, op = setting()
    shift = torch.ones(1, 12).double()
    return exact(y, count) + 0.5 * (shift - op.pinv(op(shift)))


KNOWN = torch.arange(12) % 3 == 0


def chain() -> Gaussian:
    """Return a prior whose neighbours resemble each other."""
    places = torch.arange(12).double()
    return Gaussian(randn(12, seed=2), 0.95 ** (places[:, None] - places).abs())


def filled_in(factor: float) -> Samples:
    """Return samples of a chain of which every third value is known exactly, with a wrong spread about the right mean."""
    prior, a, b = chain(), KNOWN, ~KNOWN
    covariance = prior.covariance()
    gain = torch.linalg.solve(covariance[a][:, a], covariance[a][:, b])
    root = torch.linalg.cholesky(covariance[b][:, b] - covariance[b][:, a] @ gain)

    def draw(y: Tensor, count: int) -> Tensor:
        x = y.expand(count, -1, -1).clone()
        mean = prior.mean[b] + (y[:, a] - prior.mean[a]) @ gain
        x[..., b] = mean + factor * randn(count, len(y), int(b.sum()), seed=97) @ root.mT
        return x

    return draw


def report(draw: Samples, cases: int = 150, seed: int = 0, prior: Any = None) -> Calibration:
    return calibrate(Drawing(draw, prior), setting()[0].sample(cases, seed=seed), num_samples=15, seed=seed)


class TestRanks:
    def test_by_hand(self) -> None:
        truth, samples = torch.tensor([0.5, 3.0]), torch.tensor([[0.1, 0.0], [0.4, 0.0], [0.9, 0.0]])
        low, high = rank_bounds(truth, samples)
        assert_close(low, torch.tensor([2 / 4, 3 / 4]).double())
        assert_close(high, torch.tensor([3 / 4, 1.0]).double())

    def test_weights_and_ties_by_hand(self) -> None:
        # Effective size 1 / (0.5^2 + 0.25^2 + 0.25^2) = 8/3.
        weights = torch.tensor([[0.5], [0.25], [0.25]]).double()
        low, high = rank_bounds(torch.tensor([1.0]), torch.tensor([[0.0], [1.0], [2.0]]), weights=weights)
        assert_close(low, torch.tensor([8 / 3 * 0.5 / (11 / 3)]).double())
        assert_close(high, torch.tensor([(8 / 3 * 0.75 + 1) / (11 / 3)]).double())

    def test_one_sample_repeated_by_weight_counts_as_one(self) -> None:
        low, high = rank_bounds(
            torch.zeros(2), torch.tensor([[-1.0, 1.0], [5.0, 5.0]]), weights=torch.tensor([[1.0, 1], [0, 0]])
        )
        assert_close(torch.stack([low, high]), torch.tensor([[0.5, 0.0], [1.0, 0.5]]).double())

    @pytest.mark.parametrize("values", ["continuous", "discrete"])
    def test_uniform_for_exchangeable_values(self, values: str) -> None:
        draws = randn(8, 4000, seed=1)
        draws = draws if values == "continuous" else draws.round()
        found = ranks(draws[0], draws[1:], seed=2)
        assert stats.kstest(found.numpy(), "uniform").pvalue > 0.01
        assert not torch.equal(found, ranks(draws[0], draws[1:], seed=3))
        assert_close(found[:10], ranks(draws[0, :10], draws[1:, :10], seed=2), rtol=0, atol=0)

    def test_uniform_for_importance_weights(self) -> None:
        """Truths from N(0, 1), samples from N(0, 1.3^2) weighted by the ratio of the densities; without weights they fail."""
        truth, samples = randn(2000, seed=1), 1.3 * randn(200, 2000, seed=2)
        weights = (-0.5 * samples**2 + 0.5 * (samples / 1.3) ** 2).softmax(0)
        assert rank_test(ranks(truth, samples, weights=weights, seed=0)).p_value > 0.01
        assert rank_test(ranks(truth, samples, seed=0)).p_value < 1e-6

    def test_repeats_are_merged(self) -> None:
        samples = torch.tensor([[1.0, 2.0], [1.0, 3.0], [0.0, 2.0], [1.0, 2.0]])[..., None]
        merged = merge_repeats(samples, torch.full((4, 2), 0.25))
        assert_close(merged, torch.tensor([[0.75, 0.75], [0, 0.25], [0.25, 0], [0, 0]]))

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match=r"got \(3,\) and \(5, 2\)"):
            ranks(torch.zeros(3), torch.zeros(5, 2), seed=0)
        with pytest.raises(ValueError, match="sum to 1"):
            ranks(torch.zeros(3), torch.zeros(5, 3), weights=torch.ones(5, 3), seed=0)
        with pytest.raises(ValueError, match="finite"):
            ranks(torch.full((3,), math.nan), torch.zeros(5, 3), seed=0)
        with pytest.raises(ValueError, match="ranks of shape"):
            rank_test(torch.tensor([0.5, 1.5]))


class TestRankTest:
    def test_moments_by_hand(self) -> None:
        test = rank_test(torch.tensor([0.25, 1.0]))  # v = -0.5 and 1
        assert test.shift == pytest.approx(0.25)
        assert test.spread == pytest.approx(3 * (0.25 + 1) / 2)
        h_1, h_2 = math.sqrt(3) * 0.25, math.sqrt(5) / 2 * (3 * 0.625 - 1)
        assert test.p_moments == pytest.approx(math.exp(-(h_1**2 + h_2**2)))  # chi-square with 2 degrees is exponential

    def test_rejects_exact_ranks_as_often_as_it_says(self) -> None:
        g = torch.Generator().manual_seed(0)
        rejected = sum(rank_test(torch.rand(20, generator=g)).p_value < 0.05 for _ in range(400))
        assert stats.binomtest(rejected, 400, 0.05).pvalue > 0.01 or rejected < 20

    @pytest.mark.parametrize(("power", "shift", "spread"), [(2.0, -1, 0), (0.5, 1, 0), (None, 0, 1)])
    def test_says_what_is_wrong(self, power: float | None, shift: int, spread: int) -> None:
        u = torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        u = (1 - torch.cos(math.pi * u)) / 2 if power is None else u**power  # arcsine law: the samples are too narrow
        test = rank_test(u)
        assert test.p_value < 1e-3
        assert shift * test.shift >= 0
        assert (abs(test.shift) > 0.15) == bool(shift)
        assert test.spread > 1.2 or not spread


class TestCoverage:
    @pytest.mark.parametrize("count", [1, 4, 100])
    @pytest.mark.parametrize("level", [0.5, 0.9])
    def test_of_exact_samples_is_the_level_for_any_number(self, count: int, level: float) -> None:
        draws = randn(count + 1, 500, 20, seed=1).exp()
        found = coverage(draws[0], draws[1:], level=level)
        assert abs(found.observed - level) < 4 * found.error
        assert found.error < (1.2 * level * (1 - level) / 10000) ** 0.5
        assert found.p_value > 0.001

    def test_by_hand(self) -> None:
        # Four samples: ranks 0..4 lie in fifths. Of the outer fifths, [0.05, 0.2] of [0, 0.2] is inside.
        samples = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None].expand(4, 5, 1)
        truth = torch.tensor([0.5, 1.5, 2.5, 3.5, 4.5])[:, None]
        found = coverage(truth, samples, level=0.9)
        assert found.observed == pytest.approx((0.75 + 3 + 0.75) / 5)
        assert coverage(truth[:1], samples[:, :1], level=0.9).observed == pytest.approx(0.75)
        assert coverage(truth[2:3], samples[:, 2:3], level=0.1).observed == pytest.approx(0.5)

    def test_the_error_is_that_of_cases(self) -> None:
        """Values that are the same within a case are one value, not a hundred."""
        draws = randn(10, 200, 1, seed=1)
        one, many = (coverage(draws[0].expand(-1, n), draws[1:].expand(-1, -1, n)) for n in (1, 100))
        assert many.observed == pytest.approx(one.observed)
        assert many.error > 5 * (0.09 / 200 / 100) ** 0.5
        assert one.error == pytest.approx((0.09 / 200) ** 0.5)

    def test_quantiles_cover_what_the_page_says(self) -> None:
        draws = torch.rand(8, 40000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        low, high = (draws[1:].quantile(q, 0) for q in (0.05, 0.95))
        share = float(((draws[0] > low) & (draws[0] < high)).double().mean())
        assert share == pytest.approx(0.9 * 6 / 8, abs=0.01)

    @pytest.mark.parametrize(("factor", "covered"), [(0.5, 0.59), (2.0, 0.999)])
    def test_wrong_spreads(self, factor: float, covered: float) -> None:
        found = coverage(randn(100, 30, seed=1), factor * randn(500, 100, 30, seed=2))
        assert found.observed == pytest.approx(covered, abs=0.02)  # 2 Phi(1.645 factor) - 1
        assert found.p_value < 1e-6

    def test_a_few_scalars_that_are_all_covered_prove_nothing(self) -> None:
        assert coverage(torch.zeros(20), randn(99, 20, seed=1), level=0.9).p_value > 0.05


class TestResidual:
    def test_exact(self) -> None:
        values = randn(300, 7, seed=1).square().sum(1)
        test = residual_test(values, 7)
        assert test.p_value > 0.05
        assert test.ratio == pytest.approx(float(values.mean()) / 7)
        assert test.error == pytest.approx((2 / 2100) ** 0.5)
        assert residual_test(values, 6).p_value < 1e-3
        assert residual_test(values, 8).p_value < 1e-3

    def test_one_case_is_a_chi_square_test(self) -> None:
        assert residual_test(torch.tensor([7.0]), 2).p_mean == pytest.approx(2 * math.exp(-3.5))
        assert residual_test(torch.tensor([0.1]), 2).p_mean == pytest.approx(2 * (1 - math.exp(-0.05)))

    def test_a_right_mean_of_a_wrong_law_is_seen(self) -> None:
        test = residual_test(torch.full((50,), 7.0), 7)
        assert test.p_mean > 0.5
        assert test.p_value < 1e-6

    def test_refuses_several_samples_of_one_measurement(self) -> None:
        with pytest.raises(ValueError, match="one sample for each case"):
            residual_test(torch.ones(4, 5), 3)
        with pytest.raises(ValueError, match="dof"):
            residual_test(torch.ones(4), 0)


class TestQuantities:
    def test_log_posterior_is_the_density_of_the_posterior(self) -> None:
        prior, op = setting()
        x, y = randn(4, 12, seed=1), randn(1, 5, seed=2)
        found = log_posterior(prior, op, x, y.expand(4, -1))
        expected = prior.posterior(op, y).log_prob(x)
        assert_close(found - found[0], expected - expected[0])

    def test_the_estimate_is_the_density_of_a_gaussian(self) -> None:
        """Over all ratios and many noises; a wrong factor or a wrong measure of the integral fails."""
        known = Gaussian(torch.tensor([0.5, -0.2]).double(), torch.tensor([1.0, 0.3]).double())
        unknown = from_network(known.denoise, known.schedule, predicts="x0", time=lambda t: t)
        x, ratios = randn(3, 2, seed=1), torch.logspace(-2.5, 2, 80).tolist()
        found = torch.stack([log_prior(unknown, x, ratios=ratios, seed=seed) for seed in range(8)]).mean(0)
        expected = known.log_prob(x)
        assert_close(found - found[0], expected - expected[0], rtol=0.02, atol=0.02)

    def test_the_estimate_is_a_fixed_function(self) -> None:
        known = build(Gaussian)[2]
        unknown = from_network(known.denoise, known.schedule, predicts="x0", time=lambda t: t)
        x = randn(3, 1, 6, 8, seed=1)
        assert_close(log_prior(unknown, x)[1:2], log_prior(unknown, x[1:2]))
        assert (log_prior(unknown, x) != log_prior(unknown, x, seed=1)).all()
        with pytest.raises(ValueError, match="ratios"):
            log_prior(unknown, x, ratios=(0.5, 0.1))

    def test_exact_data_have_no_posterior_density(self) -> None:
        prior, _ = setting()
        with pytest.raises(ValueError, match="noise of the operator is 0"):
            log_posterior(prior, Identity((12,)), randn(2, 12), randn(2, 12))


class TestEffectiveSizes:
    def test_of_weights(self) -> None:
        weights = torch.tensor([[0.5, 1e-200, 1.0], [0.25, 1e-200, 0.0], [0.25, 0.0, 0.0]], dtype=torch.float64)
        assert_close(ess(weights), torch.tensor([8 / 3, 2.0, 1.0]).double())
        with pytest.raises(ValueError, match="not all zero"):
            ess(torch.zeros(3, 2))

    @pytest.mark.parametrize("rho", [-0.5, 0.0, 0.9])
    def test_of_autoregressive_chains(self, rho: float) -> None:
        noise, states = randn(20000, 8, seed=1), [randn(8, seed=2)]
        for step in noise:
            states.append(rho * states[-1] + (1 - rho**2) ** 0.5 * step)
        found = chain_ess(torch.stack(states[1:]) + 1000)
        assert float(found.mean()) == pytest.approx(20000 * (1 - rho) / (1 + rho), rel=0.08)

    def test_chains_are_judged_each_by_itself(self) -> None:
        chains = torch.stack([randn(101, seed=1), randn(101, seed=2).cumsum(0), torch.full((101,), 3.0).double()], 1)
        found = chain_ess(chains)
        assert_close(found, torch.stack([chain_ess(chain) for chain in chains.mT]))
        assert found[1] < 20 < 60 < found[0]
        assert found[2] == 1

    def test_alternating_chains_are_worth_more_but_not_infinitely(self) -> None:
        assert float(chain_ess(torch.tensor([1.0, -1.0]).repeat(500))) == pytest.approx(3000)
        with pytest.raises(ValueError, match="at least 4"):
            chain_ess(torch.zeros(3))


class TestKernelStein:
    def test_kernel_is_the_stein_operator_applied_twice(self) -> None:
        """Against derivatives of the kernel by automatic differentiation."""
        x, s, c = randn(3, 4, seed=1), randn(3, 4, seed=2), torch.tensor(1.3).double()

        def kernel(a: Tensor, b: Tensor) -> Tensor:
            return (c**2 + ((a - b) ** 2).sum()) ** -0.5

        found = stein_kernel(x, s, torch.cdist(x, x), c)
        for i, j in [(0, 0), (0, 1), (2, 1)]:
            by_a, by_b = torch.func.grad(kernel, 0)(x[i], x[j]), torch.func.grad(kernel, 1)(x[i], x[j])
            trace = torch.func.jacrev(torch.func.grad(kernel, 0), 1)(x[i], x[j]).trace()
            expected = s[i] @ s[j] * kernel(x[i], x[j]) + s[i] @ by_b + s[j] @ by_a + trace
            assert_close(found[i, j], expected)

    def test_score_is_the_gradient_of_the_log_posterior(self) -> None:
        prior, op = setting()
        noised = Gaussian(prior.mean, prior.covariance() + 0.1**2 * torch.eye(12).double())
        x, y = randn(3, 12, seed=1).requires_grad_(), randn(3, 5, seed=2)
        (expected,) = torch.autograd.grad(log_posterior(noised, op, x, y).sum(), x)
        assert_close(posterior_score(prior, op, y, ratio=0.1)(x.detach()), expected)

    def test_score_of_a_nonlinear_measurement(self) -> None:
        prior, _ = setting()
        op = Function(lambda x: torch.tanh(x[:, :3]), (12,), sigma_y=0.3)
        noised = Gaussian(prior.mean, prior.covariance() + 0.1**2 * torch.eye(12).double())
        x, y = randn(3, 12, seed=1).requires_grad_(), randn(3, 3, seed=2)
        likelihood = -((y - op(x)) ** 2).sum() / (2 * 0.3**2)
        (expected,) = torch.autograd.grad(noised.log_prob(x).sum() + likelihood, x)
        assert_close(posterior_score(prior, op, y, ratio=0.1)(x.detach()), expected)
        with pytest.raises(ValueError, match="noise above 0"):
            posterior_score(prior, Identity((12,)), y, ratio=0.1)

    @pytest.mark.parametrize(
        ("draw", "rejected"),
        [(exact, False), (scaled(0.7), True), (scaled(1.6), True), (ignoring, True), (biased, True)],
        ids=["exact", "narrow", "wide", "ignoring", "biased"],
    )
    def test_samples_without_a_truth(self, draw: Samples, rejected: bool) -> None:
        prior, op = setting()
        y = op.measure(prior.sample(3, seed=4), seed=5)
        found = kernel_stein(draw(y, 300), posterior_score(prior, op, y, ratio=0.02), seed=0)
        assert ((found.p_value < 0.01) == rejected).all(), found
        assert (found.v > found.u).all()
        assert (found.v > 0).all()

    def test_statistics_by_hand(self) -> None:
        """Two samples of a standard deviation of 1 about 5, whose kernel matrix is known."""
        x = torch.tensor([[6.0], [4.0]]).double()
        h = stein_kernel(x - 5, 3 - x, torch.cdist(x, x), torch.tensor(1.5).double())
        found = kernel_stein(x[:, None], lambda x: 3 - x, bandwidth=1.5, seed=0)
        assert_close(found.u, h[0, 1:])
        assert_close(found.v, h.mean()[None])
        three = torch.tensor([[6.0], [4.0], [4.0]]).double()[:, None]
        weighted = kernel_stein(
            three, lambda x: 3 - x, bandwidth=1.5, seed=0, weights=torch.tensor([[0.5], [0.25], [0.25]]).double()
        )
        assert_close(weighted.u, found.u)

    def test_u_is_unbiased_and_p_uniform(self) -> None:
        samples = randn(50, 300, 2, seed=1)
        found = kernel_stein(samples, lambda x: -x, seed=0, bootstraps=200)
        assert abs(float(found.u.mean())) < 4 * float(found.u.std()) / 300**0.5
        assert float(found.v.mean()) > 10 * abs(float(found.u.mean()))
        assert stats.kstest(found.p_value.numpy(), "uniform").pvalue > 0.01

    def test_items_do_not_mix_and_repeats_count_once(self) -> None:
        def figures(samples: Tensor) -> Tensor:
            found = kernel_stein(samples, lambda x: -x, seed=0)
            return torch.stack([found.u, found.v, found.bandwidth])

        samples = randn(40, 2, 3, seed=1)
        both = figures(samples)
        assert_close(both[:, :1], figures(samples[:, :1]))
        assert_close(both, figures(torch.cat([samples, samples])))

    def test_weights(self) -> None:
        """Samples of N(0, 1.4^2) follow N(0, 1) with their importance weights, and not without."""
        samples = 1.4 * randn(400, 4, 1, seed=1)
        weights = (-0.5 * samples**2 + 0.5 * (samples / 1.4) ** 2).squeeze(-1).softmax(0)
        assert (kernel_stein(samples, lambda x: -x, weights=weights, seed=0).p_value > 0.01).all()
        assert (kernel_stein(samples, lambda x: -x, seed=0).p_value < 0.01).all()

    def test_a_sticky_chain_needs_sticky_signs(self) -> None:
        states, noise = [randn(20, 1, seed=2)], randn(300, 20, 1, seed=1)
        for step in noise:
            states.append(0.9 * states[-1] + (1 - 0.9**2) ** 0.5 * step)
        chain = torch.stack(states[1:])
        independent, sticky = (kernel_stein(chain, lambda x: -x, seed=0, flip=flip).p_value for flip in (0.5, 0.03))
        assert (independent < 0.01).double().mean() > 0.3
        assert (sticky < 0.01).double().mean() < 0.1
        wrong = kernel_stein(chain + 1.5, lambda x: -x, seed=0, flip=0.03).p_value
        assert (wrong < 0.01).double().mean() > 0.7

    @pytest.mark.parametrize("flip", [0.1, 0.5])
    def test_signs_are_correlated_like_a_chain(self, flip: float) -> None:
        signs = sticky_signs(20000, 12, flip, torch.Generator().manual_seed(0))
        for lag in (1, 5):
            assert float((signs[:, 6] * signs[:, 6 + lag]).mean()) == pytest.approx((1 - 2 * flip) ** lag, abs=0.03)

    def test_missing_modes_are_not_seen(self) -> None:
        """The known limit, on record: one of two far modes has the same score."""
        means = torch.tensor([[-10.0], [10.0]]).double()
        prior = GaussianMixture(torch.ones(2).double(), means, torch.ones(2, 1, 1).double())
        t = prior.schedule.time(0.01)
        found = kernel_stein(10 + randn(100, 1, 1, seed=1), lambda x: prior.score(x, t), seed=0)
        assert found.p_value > 0.01

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="at least 2"):
            kernel_stein(randn(1, 2, 3), lambda x: -x, seed=0)
        with pytest.raises(ValueError, match="all samples of an item are the same"):
            kernel_stein(torch.ones(4, 2, 3), lambda x: -x, seed=0)
        with pytest.raises(ValueError, match="flip"):
            kernel_stein(randn(4, 2, 3), lambda x: -x, seed=0, flip=0.9)


class TestCalibrate:
    def test_exact_samples_pass(self) -> None:
        for seed in range(1, 4):
            assert report(exact, seed=seed).passed
        found = report(exact)
        assert found.p_value > 0.01, found.p_values
        assert found.verdict[0].startswith("consistent with a calibrated sampler")
        assert "150 cases reveal 90% intervals whose coverage is off by" in found.verdict[1]
        assert len(found.p_values) == 10
        assert found.threshold == pytest.approx(0.01 / 10)

    def test_a_sampler_that_ignores_the_data_passes_all_but_what_looks_at_them(self) -> None:
        found = report(ignoring)
        for blind in ("mean", "projection 1", "projection 2", "projection 3"):
            assert found.rank_tests[blind].p_value > 0.01
        assert found.rank_tests["misfit"].p_value < 1e-12
        assert found.rank_tests["log posterior"].p_value < 1e-12
        assert found.p_values["misfit against the noise"] < 1e-12
        assert all(c.p_value > 0.01 for c in found.coverage)
        assert found.verdict[0].startswith("the data are being ignored")

    def test_tarp_is_a_test_beside_the_ranks(self) -> None:
        for draw, shift in ((ignoring, -0.2), (scaled(1.6), -0.2), (scaled(0.6), 0.2)):
            found = report(draw)
            test = found.rank_tests["distance from a random point"]
            assert found.p_values["rank of the distance from a random point"] < 1e-6
            assert test.shift / shift > 1
            assert any("(TARP: " in line for line in found.verdict)
        for c in report(exact).expected_coverage:
            assert abs(c.observed - c.level) < 4 * c.error
        by_hand = found.ranks["distance from a random point"] < 0.8
        (eighty,) = (c for c in found.expected_coverage if c.level == 0.8)
        assert eighty.observed == pytest.approx(float(by_hand.double().mean()))

    def test_points_that_do_not_look_at_the_data_are_blind_to_samples_that_ignore_them(self) -> None:
        prior, op = setting()
        x = prior.sample(150, seed=0)
        y = op.measure(x, seed=0)
        samples, scale = ignoring(y, 15), scales(x)
        for point, blind in ((x.roll(1, 0), True), (reference_points(prior, op, x.roll(1, 0), y), False)):
            far = torch.stack([distance(s, point, scale) for s in samples])
            p = rank_test(ranks(distance(x, point, scale), far, seed=1)).p_value
            assert (p > 0.01) if blind else (p < 1e-6)

    def test_exact_data_are_judged_by_what_is_missing(self) -> None:
        prior, op = chain(), Mask(KNOWN, (12,))
        x = prior.sample(150, seed=0)

        def ignore(y: Tensor, count: int) -> Tensor:
            return prior.sample(count * len(y), seed=98).reshape(count, len(y), 12)

        def judge(draw: Samples) -> Calibration:
            drawing = Drawing(draw, prior)
            drawing.op = op
            return calibrate(drawing, x, num_samples=15, finish=lambda samples, y: torch.where(KNOWN, y, samples))

        for draw, passes in ((filled_in(1.0), True), (filled_in(0.6), False), (ignore, False)):
            found = judge(draw)
            assert found.passed == passes, found.p_values
            assert found.residual is None
            assert "log prior" in found.rank_tests
            assert "misfit" not in found.rank_tests
            assert [len(values) for values in found.deviations] == [8] * 150
        seen = found.rank_tests["distance from a random point"]
        assert seen.p_value < 1e-6  # of samples that ignore the data
        # What is known neither helps nor harms.
        (ninety,) = (c for c in judge(filled_in(0.6)).coverage if c.level == 0.9)
        alone = coverage(x[:, ~KNOWN], filled_in(0.6)(op(x), 15)[..., ~KNOWN], level=0.9)
        assert ninety.observed == pytest.approx(alone.observed)

    def test_too_narrow(self) -> None:
        found = report(scaled(0.6))
        (fifty, ninety) = (c for c in found.coverage if c.level in (0.5, 0.9))
        assert max(fifty.p_value, ninety.p_value) < 1e-6
        assert any(line.startswith("the samples are too narrow") for line in found.verdict)
        assert any(f"90% intervals cover {ninety.observed:.0%}" in line for line in found.verdict)
        assert found.rank_tests["log posterior"].shift < -0.3
        assert any("more probable than the truth" in line for line in found.verdict)

    def test_too_wide(self) -> None:
        found = report(scaled(1.6))
        assert any(line.startswith("the samples are too wide") for line in found.verdict)
        assert any("less probable than the truth" in line for line in found.verdict)
        assert found.verdict[0].startswith("the data are not fitted")

    def test_biased(self) -> None:
        found = report(biased)
        assert found.rank_tests["misfit"].p_value > 0.01  # The bias lies where nothing is measured.
        assert found.rank_tests["mean"].p_value < 1e-6
        assert any(line.startswith("the mean is biased: the mean rank of the truth is 0.") for line in found.verdict)

    def test_overfitting(self) -> None:
        _, op = setting()
        found = report(lambda y, count: torch.stack([x + op.pinv(y - op(x)) for x in exact(y, count)]))
        assert found.verdict[0].startswith("the noise is being fitted: the squared misfit is 0.00")

    def test_an_unknown_density_is_estimated(self) -> None:
        prior, _ = setting()
        unknown = from_network(prior.denoise, prior.schedule, predicts="x0", time=lambda t: t)
        found = report(exact, prior=unknown)
        assert found.passed
        wrong = report(scaled(0.6), prior=unknown)
        assert wrong.rank_tests["log posterior (estimated)"].p_value < 1e-6

    def test_one_particle_repeated_is_not_many(self) -> None:
        """Fifteen copies of one exact draw: an interval of width zero, and yet no sign of a wrong sampler."""
        found = report(lambda y, count: exact(y, 1).expand(count, -1, -1))
        assert found.passed

    def test_the_default_method_passes_and_dps_is_rejected(self) -> None:
        prior, op = setting()
        clean = prior.sample(60, seed=0).float()
        found = calibrate(PosteriorSampler(prior, op), clean, num_samples=7, seed=0)
        assert found.passed, found.p_values
        wrong = calibrate(PosteriorSampler(prior, op, method="dps", steps=100), clean, num_samples=7, seed=0)
        assert wrong.p_values["rank of the misfit"] < 1e-4
        assert not wrong.passed

    def test_refuses(self) -> None:
        prior, _ = setting()
        drawing = Drawing(exact)
        with pytest.raises(ValueError, match="at least two clean items"):
            calibrate(drawing, prior.sample(1, seed=0))
        with pytest.raises(ValueError, match="significance"):
            calibrate(drawing, prior.sample(3, seed=0), significance=0)
        drawing.op = Matrix(randn(5, 12, seed=3))
        with pytest.raises(ValueError, match="noise of the operator is 0"):
            calibrate(drawing, prior.sample(3, seed=0))


def test_a_schedule_in_which_alpha_is_1_and_one_in_which_it_is_not_agree() -> None:
    prior, op = setting()
    other = Gaussian(prior.mean, prior.covariance(), schedule=EDM())
    x, y = randn(3, 12, seed=1), randn(3, 5, seed=2)
    assert_close(posterior_score(prior, op, y, ratio=0.1)(x), posterior_score(other, op, y, ratio=0.1)(x))
    assert (dot(x, x) > 0).all()
