"""Intervals, probabilities and expectations of posterior samples: against exact posteriors, formulas and bad functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import randn
from scipy import stats
from torch import Tensor
from torch.testing import assert_close

from invdiff import Posterior, PosteriorSampler
from invdiff.diagnostics import exact_width
from invdiff.operators import Matrix
from invdiff.posterior import Estimate, Particles
from invdiff.priors import Gaussian


def posterior(samples: Tensor, weights: Tensor | None = None, particles: Particles | None = None) -> Posterior:
    rows = samples.shape[:2]
    weights = torch.full(rows, 1 / len(samples), dtype=torch.float64) if weights is None else weights
    return Posterior(samples, weights, torch.ones(rows), 3, 1.0, 1.0, 0.0, "none", 0, {}, particles)


def covered(ends: tuple[Tensor, Tensor], truth: Tensor) -> tuple[float, float, float]:
    """Return the shares of truths below, within and above intervals."""
    low, high = ends
    return tuple(float(there.double().mean()) for there in (truth < low, (low <= truth) & (truth <= high), truth > high))  # type: ignore[return-value]


def weights_of(count: int, items: int, seed: int, spread: float = 1.0) -> Tensor:
    return (spread * randn(count, items, seed=seed)).softmax(0)


class TestInterval:
    ITEMS = 4000

    @pytest.mark.parametrize("count", [2, 4, 8, 19, 40, 199])
    @pytest.mark.parametrize("level", [0.5, 0.9])
    def test_covers_a_new_draw_as_often_as_it_says(self, count: int, level: float) -> None:
        """For every number of samples; the truth is one more draw. Five standard errors."""
        draws = randn(count + 1, self.ITEMS, 3, seed=count)
        below, inside, above = covered(posterior(draws[1:]).interval(level), draws[0])
        error = 5 * (level * (1 - level) / (3 * self.ITEMS)) ** 0.5
        # Between two samples the coverage is linear in the share only for uniform draws.
        assert inside == pytest.approx(level, abs=error + (0.02 if level == 0.5 and count == 4 else 0))
        assert below == pytest.approx(above, abs=2 * error)

    def test_covers_in_any_shape_of_posterior_with_samples_enough(self) -> None:
        draws = torch.from_numpy(np.random.default_rng(0).exponential(size=(20, self.ITEMS, 3)))
        below, inside, above = covered(posterior(draws[1:]).interval(0.9), draws[0])
        assert (below, inside, above) == pytest.approx((0.05, 0.9, 0.05), abs=0.012)

    def test_the_truth_in_an_exact_posterior(self) -> None:
        """The whole way: prior, measurement, samples of mmps, intervals that hold the truth."""
        root = randn(4, 4, seed=5)
        prior = Gaussian(randn(4, seed=6), root @ root.mT + 0.1 * torch.eye(4, dtype=torch.float64))
        op = Matrix(randn(2, 4, seed=7), sigma_y=0.3)
        truth = prior.sample(300, seed=1)
        sampler = PosteriorSampler(prior, op, method="mmps", steps=6)
        post = sampler.run(op.measure(truth, seed=2), num_samples=19)
        _, inside, _ = covered(post.interval(0.9), truth)
        assert inside == pytest.approx(0.9, abs=0.045)
        _, narrow, _ = covered((post.quantile(0.05), post.quantile(0.95)), truth)
        assert narrow < 0.87  # what the quantiles themselves hold
        shifted = posterior(post.samples + 2 * post.std)
        assert covered(shifted.interval(0.9), truth)[1] < 0.6

    @pytest.mark.parametrize(("count", "spread"), [(60, 0.5), (400, 1.0), (400, 2.0)])
    def test_weights_count(self, count: int, spread: float) -> None:
        """Draws of a wider law, weighted to the standard normal one."""
        wide = 1 + 0.2 * spread
        draws = wide * randn(count, 1500, 1, seed=1)
        log_weights = stats.norm(0, 1).logpdf(draws.numpy()) - stats.norm(0, wide).logpdf(draws.numpy())
        weights = torch.from_numpy(log_weights)[..., 0].softmax(0)
        _, inside, _ = covered(posterior(draws, weights).interval(0.9), randn(1500, 1, seed=2))
        assert 0.88 < inside < 0.94  # never narrower in expectation
        _, ignored, _ = covered(posterior(draws).interval(0.9), randn(1500, 1, seed=2))
        assert ignored > inside

    def test_samples_of_weight_zero_do_not_matter(self) -> None:
        samples, far = randn(40, 2, 3, seed=1), torch.full((5, 2, 3), 1e6, dtype=torch.float64)
        weights = weights_of(40, 2, 2, 0.1)
        with_zeros = posterior(torch.cat([far, samples, -far]), torch.cat([0 * weights[:5], weights, 0 * weights[:5]]))
        for a, b in zip(with_zeros.interval(0.8), posterior(samples, weights).interval(0.8), strict=True):
            assert_close(a, b)

    def test_weights_and_repeated_samples_agree(self) -> None:
        """An outer sample of weight zero is one that was not drawn."""
        samples = randn(30, 1, 1, seed=3)
        weights = torch.zeros(30, 1, dtype=torch.float64)
        weights[:25] = 1 / 25
        low, high = posterior(samples, weights).interval(0.8)
        ordered = samples[:25, 0, 0].sort().values  # sizes 25: q (n + 1) = 2.6: the second sample from either end
        assert_close(torch.stack([low.squeeze(), high.squeeze()]), torch.stack([ordered[1], ordered[-2]]))

    def test_few_samples_are_taken_as_gaussian(self) -> None:
        post = posterior(randn(4, 2, 3))
        low, high = post.interval(0.9)
        assert_close(high - post.mean, exact_width(0.9, 4) * post.std)
        assert_close(post.mean - low, exact_width(0.9, 4) * post.std)
        assert float(posterior(torch.ones(2, 1, 1)).interval()[1]) == 1.0  # known exactly: no width

    def test_every_item_by_its_own_effective_size(self) -> None:
        weights = torch.full((30, 2), 1 / 30, dtype=torch.float64)
        weights[:, 1] = 0
        weights[:3, 1] = 1 / 3
        post = posterior(randn(30, 2, 3), weights)
        low, _ = post.interval(0.9)
        assert_close(low[1], post.mean[1] - exact_width(0.9, 3) * post.std[1])
        assert low[0].min() >= post.samples[:, 0].min()

    def test_particles_count_by_their_effective_size(self) -> None:
        samples = randn(64, 1, 3)
        groups = torch.full((4, 1), 8.0, dtype=torch.float64)
        particles = Particles(16, False, torch.full((64, 1), 1 / 16), groups, groups, 0 * groups)
        low, high = posterior(samples, particles=particles).interval(0.9)
        plain_low, plain_high = posterior(samples).interval(0.9)
        assert (low < plain_low).all()
        assert (high > plain_high).all()

    def test_shapes_and_dtype(self) -> None:
        for count in (4, 40):
            low, high = posterior(randn(count, 2, 3, 5, 7).float()).interval()
            assert low.shape == high.shape == (2, 3, 5, 7)
            assert low.dtype == high.dtype == torch.float32

    @pytest.mark.parametrize("level", [0, 1, 90, -0.1, float("nan")])
    def test_refuses_levels(self, level: float) -> None:
        with pytest.raises(ValueError, match=r"level must lie in \(0, 1\)"):
            posterior(randn(4, 1, 2)).interval(level)

    def test_refuses_a_single_sample(self) -> None:
        with pytest.raises(ValueError, match="two samples or more"):
            posterior(randn(1, 1, 2)).interval()


class TestProbability:
    @pytest.mark.parametrize("count", [4, 8, 32])
    @pytest.mark.parametrize("true", [0.02, 0.2, 0.5, 0.9])
    def test_the_error_is_that_of_the_share(self, count: int, true: float) -> None:
        """Its root mean square over many posteriors is that of the errors, and they are rarely more than two of it."""
        uniform = torch.rand(count, 4000, 1, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
        found = posterior(uniform).probability(lambda x: x[:, 0] < true)
        errors = found.value - true
        exact = (true * (1 - true) / count) ** 0.5
        assert float(errors.square().mean().sqrt()) == pytest.approx(exact, rel=0.05)
        said = float(found.standard_error.square().mean().sqrt())
        never = ((count + 1) / count) ** 0.5 / (count + 2)  # what it says where no sample has it
        assert 0.9 * exact < said < 1.3 * max(exact, never)
        assert float((errors.abs() <= 2 * found.standard_error).double().mean()) > (0.85 if count == 4 else 0.9)

    def test_weights_count(self) -> None:
        """Importance weights of another law: the share is unbiased, and the error is larger than that of equal weights."""
        draws = 1.5 * randn(64, 4000, 1, seed=1)
        weights = (-(draws**2) / 2 * (1 - 1 / 1.5**2))[..., 0].softmax(0)
        found = posterior(draws, weights).probability(lambda x: x[:, 0] > 1)
        true = float(stats.norm.sf(1))
        assert float(found.value.mean()) == pytest.approx(true, abs=0.005)
        errors = float((found.value - true).square().mean().sqrt())
        assert float(found.standard_error.square().mean().sqrt()) == pytest.approx(errors, rel=0.25)
        assert float(posterior(draws).probability(lambda x: x[:, 0] > 1).value.mean()) > true + 0.05

    def test_nothing_is_certain(self) -> None:
        post = posterior(randn(8, 1, 4))
        for event, value in ((lambda x: x[:, 0] > 100, 0.0), (lambda x: x[:, 0] < 100, 1.0)):
            found = post.probability(event)
            assert float(found.value) == value
            assert float(found.standard_error) == pytest.approx((0.1 * 0.9 / 8) ** 0.5)
        assert repr(post.probability(lambda x: x[:, 0] > 100)) == "0.00 +- 0.11"

    def test_formula_and_repr(self) -> None:
        samples = torch.tensor([1.0, 1, 1, 0, 1, 1, 0, 1]).reshape(8, 1, 1)
        found = posterior(samples).probability(lambda x: x[:, 0] > 0.5)
        assert_close(found.value, torch.tensor([0.75]))
        assert_close(found.standard_error, torch.tensor([(0.7 * 0.3 / 8) ** 0.5]))
        assert repr(found) == "0.75 +- 0.16"
        both = posterior(torch.cat([samples, 1 - samples], 1)).probability(lambda x: x[:, 0] > 0.5)
        assert repr(both) == "[0.75 +- 0.16, 0.25 +- 0.16]"

    def test_maps_of_probabilities(self) -> None:
        post = posterior(randn(20, 2, 3, 8, 8))
        found = post.probability(lambda x: x > 0)
        assert found.value.shape == found.standard_error.shape == (2, 3, 8, 8)
        assert_close(found.value, (post.samples > 0).double().mean(0))
        assert repr(found).startswith("Estimate of shape (2, 3, 8, 8), standard error up to 0.1")

    def test_items_apart(self) -> None:
        seen: list[tuple[int, ...]] = []

        def event(x: Tensor) -> Tensor:
            seen.append(tuple(x.shape))
            x.zero_()  # what it does to its argument reaches nothing
            return x[:, 0] == 0

        post = posterior(randn(5, 3, 4))
        before = post.samples.clone()
        assert post.probability(event).value.tolist() == [1.0, 1.0, 1.0]
        assert seen == [(5, 4)] * 3
        assert torch.equal(post.samples, before)

    @pytest.mark.parametrize(
        ("function", "error", "message"),
        [
            (3, TypeError, "expected a function of samples"),
            (lambda x: x[:, 0], TypeError, "must return booleans, got torch.float64.*expectation"),
            (lambda x: True, ValueError, r"samples \(6, 4\) must return a tensor of booleans.*shape \(6,\).*got bool"),
            (lambda x: (x > 0).any(), ValueError, r"got shape \(\)"),
            (lambda x: x[0] > 0, ValueError, r"got shape \(4,\)"),
            (lambda x: [True] * 6, ValueError, "got list"),
            (lambda x: (x > 0).numpy()[:, 0], ValueError, "got ndarray"),
        ],
    )
    def test_bad_functions_are_named(self, function: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=f"probability: .*{message}"):
            posterior(randn(6, 2, 4)).probability(function)

    def test_errors_of_the_function_say_what_it_was_given(self) -> None:
        with pytest.raises(IndexError) as error:
            posterior(randn(6, 2, 4)).probability(lambda x: x[:, 9] > 0)
        assert "given a tensor of shape (6, 4)" in error.value.__notes__[0]

    def test_a_function_that_changes_its_mind(self) -> None:
        shapes = iter([(6,), (6, 2)])
        with pytest.raises(ValueError, match="for item 1, unlike for item 0"):
            posterior(randn(6, 2, 4)).probability(lambda x: torch.ones(next(shapes), dtype=torch.bool))


class TestExpectation:
    def test_value_and_error(self) -> None:
        post = posterior(randn(10, 3, 4))
        found = post.expectation(lambda x: x.mean(1))
        means = post.samples.mean(2).numpy()
        assert_close(found.value.numpy(), means.mean(0))
        assert_close(found.standard_error.numpy(), means.std(0, ddof=1) / 10**0.5)
        assert_close(post.expectation(lambda x: x).value, post.mean)
        assert_close(post.expectation(lambda x: (x > 0)[:, 0].int()).value, post.probability(lambda x: x[:, 0] > 0).value)

    def test_weighted_error_against_repetitions(self) -> None:
        draws = 1.5 * randn(64, 4000, 1, seed=1)
        weights = (-(draws**2) / 2 * (1 - 1 / 1.5**2))[..., 0].softmax(0)
        found = posterior(draws, weights).expectation(lambda x: x[:, 0])
        errors = float(found.value.square().mean().sqrt())  # the true mean is 0
        assert float(found.standard_error.square().mean().sqrt()) == pytest.approx(errors, rel=0.2)

    def test_one_sample_has_no_error(self) -> None:
        found = posterior(randn(1, 1, 4)).expectation(lambda x: x[:, 0])
        assert found.standard_error.isnan().all()
        assert repr(found).endswith("+- nan")

    def test_refuses_what_is_not_finite(self) -> None:
        post = posterior(randn(6, 2, 4).abs())
        post.samples[3, 1, 2] = 0
        for function in (lambda x: x.log(), lambda x: x.log().sum(1)):
            with pytest.raises(ValueError, match="nan or infinity for sample 3 of item 1"):
                post.expectation(function)
        with pytest.raises(TypeError, match="must return real numbers"):
            post.expectation(lambda x: torch.fft.fft(x))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.7512, 0.153, "0.75 +- 0.15"),
        (12.3456, 0.0123, "12.346 +- 0.012"),
        (1234.5, 120.0, "1234.5 +- 1.2e+02"),
        (2.0, 0.0, "2 +- 0"),
    ],
)
def test_repr_of_estimates(value: float, error: float, text: str) -> None:
    assert repr(Estimate(torch.tensor([value]).double(), torch.tensor([error]).double())) == text
