"""Scores of samples against closed forms of Gaussians, and against sums written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import randn
from scipy import stats

from invdiff.evaluation import crps, energy_score, posterior_scores, scores

ROOT_PI = math.sqrt(math.pi)


def gaussian(n, size, *, spread=1.0, seed=0):
    """Samples ``(n, size)`` and truths, both drawn about a mean that differs from value to value; the samples by ``spread``."""
    mean, truth = randn(size, seed=seed), randn(size, seed=seed + 1)
    return mean + spread * randn(n, size, seed=seed + 2), mean + truth


class TestCRPS:
    @pytest.mark.parametrize("n", [2, 3, 8])
    @pytest.mark.parametrize("truth", [-0.5, 0.0, 2.0])
    def test_expectation_for_a_gaussian(self, n, truth):
        # Gneiting & Raftery, 2007, eq. 5, with the opposite sign.
        sigma, z = 0.7, truth / 0.7
        closed = sigma * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / ROOT_PI)
        values = crps(sigma * randn(n, 40_000), torch.full((40_000,), truth, dtype=torch.float64))
        assert float(values.mean()) == pytest.approx(closed, abs=4 * float(values.std()) / 200)

    def test_is_the_sum_over_pairs(self):
        x, y = gaussian(5, 6)
        x, y = x.reshape(5, 2, 3), y.reshape(2, 3)
        pairs = (x[:, None] - x[None]).abs().sum((0, 1))
        torch.testing.assert_close(crps(x, y), (x - y).abs().mean(0) - pairs / (2 * 5 * 4))

    @pytest.mark.parametrize("spread", [0.5, 2.0])
    def test_is_least_for_the_right_spread(self, spread):
        right, wrong = (crps(*gaussian(4, 20_000, spread=s)).mean() for s in (1.0, spread))
        assert right + 0.02 < wrong


class TestEnergyScore:
    def test_of_one_value_is_the_crps(self):
        for seed in range(5):
            x, y = randn(6, 1, seed=seed), randn(1, seed=100 + seed)
            torch.testing.assert_close(energy_score(x, y), crps(x, y)[0])

    def test_is_the_sum_over_pairs(self):
        x, y = randn(4, 2, 3), randn(2, 3, seed=1)
        distance = torch.cdist(x.reshape(4, 6), x.reshape(4, 6))
        expected = torch.linalg.vector_norm((x - y).reshape(4, 6), dim=1).mean() - distance.sum() / (2 * 4 * 3)
        torch.testing.assert_close(energy_score(x, y), expected)

    @pytest.mark.parametrize("n", [2, 10])
    def test_expectation_for_a_gaussian(self, n):
        # |X - y| and |X - X'| of standard Gaussians in d dimensions are sqrt(2) times a chi variable.
        d, chi = 3, math.sqrt(2) * math.gamma(2) / math.gamma(1.5)
        values = torch.stack([energy_score(randn(n, d, seed=2 * k), randn(d, seed=2 * k + 1)) for k in range(2000)])
        assert float(values.mean()) == pytest.approx(math.sqrt(2) * chi / 2, abs=4 * float(values.std()) / 2000**0.5)


class TestPosteriorScores:
    @pytest.mark.parametrize("n", [2, 4, 8, 19, 40])
    def test_samples_of_the_posterior(self, n):
        found = posterior_scores(*gaussian(n, 40_000))
        assert found.samples == n
        assert found.open == 1
        assert found.crps == pytest.approx(1 / ROOT_PI, abs=0.02)
        assert found.energy_score == pytest.approx(1 / math.sqrt(2), abs=0.01)
        assert found.coverage_90 == pytest.approx(0.9, abs=0.008)
        # The median interval lies between two samples where n is small, and is then a few percent wide.
        assert found.coverage_50 == pytest.approx(0.5, abs=0.03 if n == 4 else 0.012)
        assert found.spread == pytest.approx(1, abs=0.02)
        assert found.error == pytest.approx(math.sqrt(1 + 1 / n), abs=0.015)
        assert found.spread_error == pytest.approx(1, abs=0.02)
        assert found.diversity == pytest.approx(math.sqrt(2), abs=0.025)
        assert found.psnr_samples == pytest.approx(-10 * math.log10(2), abs=0.1)
        assert found.psnr_mean - found.psnr_samples == pytest.approx(10 * math.log10(2 * n / (n + 1)), abs=0.1)

    def test_overconfident_samples(self):
        found = posterior_scores(*gaussian(8, 20_000, spread=0.5))
        assert found.coverage_90 < 0.7
        assert found.spread_error == pytest.approx(math.sqrt(9 / 8) * 0.5 / math.sqrt(1 + 0.25 / 8), abs=0.02)

    def test_by_hand(self):
        found = posterior_scores(torch.tensor([[0.0, 0.2], [0.2, 0.2]]), torch.tensor([0.3, 0.2]))
        assert found.open == 0.5
        assert found.crps == pytest.approx((0.2 - 0.1) / 2)
        # Distances to the truth: 0.3 and 0.1; between the samples 0.2.
        assert found.energy_score == pytest.approx((0.2 - 0.1) / math.sqrt(2))
        assert found.spread == pytest.approx(math.sqrt(0.02 / 2))
        assert found.error == pytest.approx(0.2 / math.sqrt(2))
        assert found.spread_error == pytest.approx(math.sqrt(1.5) * math.sqrt(0.02) / 0.2)
        assert found.diversity == pytest.approx(0.2 / math.sqrt(2))
        assert found.psnr_mean == pytest.approx(-10 * math.log10(0.02))
        assert found.psnr_samples == pytest.approx(-5 * (math.log10(0.045) + math.log10(0.005)))

    def test_known_values_do_not_count_as_covered(self):
        x, y = gaussian(4, 3000, spread=0.2)
        known = torch.zeros(9000, dtype=torch.float64)
        found, more = posterior_scores(x, y), posterior_scores(torch.cat([x, known.expand(4, -1)], 1), torch.cat([y, known]))
        assert more.open == 0.25
        assert (more.coverage_50, more.coverage_90) == (found.coverage_50, found.coverage_90)
        assert more.spread_error == pytest.approx(found.spread_error)

    def test_wrong_values_that_all_samples_share_are_missed(self):
        found = posterior_scores(torch.zeros(3, 10), torch.ones(10))
        assert (found.coverage_50, found.coverage_90, found.spread_error) == (0, 0, 0)

    def test_exact_samples(self):
        found = posterior_scores(torch.ones(3, 10), torch.ones(10))
        assert (found.crps, found.energy_score, found.error) == (0, 0, 0)
        assert math.isinf(found.psnr_mean)
        assert all(math.isnan(value) for value in (found.coverage_50, found.coverage_90, found.spread_error))

    def test_is_the_same_in_parts(self, monkeypatch):
        x, y = (values.float() for values in gaussian(3, 1000))
        whole = posterior_scores(x.reshape(3, 10, 100), y.reshape(10, 100))
        monkeypatch.setattr(scores, "PART", 3 * 64)
        np.testing.assert_allclose(list(posterior_scores(x, y).as_dict().values()), list(whole.as_dict().values()), rtol=1e-12)

    @pytest.mark.parametrize(
        ("x", "y", "words"),
        [
            (torch.zeros(1, 3), torch.zeros(3), "two samples"),
            (torch.zeros(2, 3), torch.zeros(4), "two samples"),
            (torch.zeros(2, 3), torch.full((3,), math.nan), "finite"),
        ],
    )
    def test_refusals(self, x, y, words):
        for function in (crps, energy_score, posterior_scores):
            with pytest.raises(ValueError, match=words):
                function(x, y)
