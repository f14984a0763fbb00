"""The search of the evidence, its intervals, and the parameters of Gaussian cases whose marginal likelihood is known."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from invdiff.blind import BlindSampler, GaussianFamily, LineFamily
from invdiff.blind.measurement import blur_operator
from invdiff.blind.parametric import search
from invdiff.blind.simplex import trimmed
from invdiff.priors import Gaussian
from invdiff.priors.analytic.gaussian import linear_gaussian_posterior

SIDE, SIGMA = 12, 0.3


def blocks_of(values):
    """Return a 96 x 96 map whose 36 blocks of 16 x 16 have these sums."""
    return torch.as_tensor(values, dtype=torch.float64).reshape(6, 6).repeat_interleave(16, 0).repeat_interleave(16, 1) / 256


@pytest.mark.parametrize(("family", "true"), [(GaussianFamily(), (1.83,)), (LineFamily(), (11.3, 172.0))])
def test_the_search_finds_the_maximum(family, true):
    def evidence(theta, stream, levels):
        distance = 50 * math.log(theta[0] / true[0]) ** 2
        if len(true) > 1:
            distance += 20 * (1 - math.cos(math.radians(2 * (theta[1] - true[1]))))
        return blocks_of(np.full(36, distance))

    found = search(family, evidence)
    assert found.determined
    assert not found.at_bound
    assert found.parameters[0] == pytest.approx(true[0], rel=0.005)
    if len(true) > 1:
        assert (found.parameters[1] - true[1] + 90) % 180 - 90 == pytest.approx(0, abs=0.3)


def test_the_variance_is_that_of_the_maxima_of_the_blocks_and_of_the_bias():
    # The evidence of block b is curvature (log sigma - m_b)^2 / 2, so the estimate is the mean of the m_b.
    places = math.log(1.5) + 0.2 * np.random.default_rng(0).standard_normal(36)
    found = search(GaussianFamily(), lambda theta, stream, levels: blocks_of(40 * (math.log(theta[0]) - places) ** 2 / 2))
    assert math.log(found.parameters[0]) == pytest.approx(places.mean(), abs=1e-4)
    bias = math.log1p(GaussianFamily().bias(found.parameters)[0] / found.parameters[0])
    assert found.covariance[0, 0] == pytest.approx(places.var(ddof=1) / 36 + bias**2, rel=1e-3)
    draws = np.log(np.array(found.draws(2000, GaussianFamily(), np.random.default_rng(1)))[:, 0])
    scaled = (draws - math.log(found.parameters[0])) / math.sqrt(found.covariance[0, 0])
    assert stats.kstest(scaled, stats.t(df=3).cdf).pvalue > 0.01


def test_flat_evidence_and_ends_of_the_range_are_said():
    flat = search(GaussianFamily(), lambda theta, stream, levels: blocks_of(np.zeros(36)))
    assert not flat.determined
    rising = search(GaussianFamily(), lambda theta, stream, levels: blocks_of(np.full(36, -100 * theta[0])))
    assert rising.at_bound == "sigma"
    assert rising.parameters[0] == pytest.approx(5.0, rel=0.05)


def prior():
    radius = (torch.fft.fftfreq(SIDE)[:, None] ** 2 + torch.fft.rfftfreq(SIDE) ** 2).sqrt().double()
    return Gaussian.stationary(torch.zeros(1, SIDE, SIDE, dtype=torch.float64), (6 / (1 + (radius / 0.2) ** 2))[None])


def operator(sigma):
    kernel = trimmed(GaussianFamily(0.4, 1.1).kernel((sigma,)))
    return blur_operator((1, SIDE, SIDE), kernel, boundary="circular", sigma_y=SIGMA)


def test_the_parameter_of_a_gaussian_case_is_that_of_the_marginal_likelihood():
    score, family = prior(), GaussianFamily(0.4, 1.1)
    grid = np.exp(np.linspace(math.log(0.4), math.log(1.1), 60))
    errors, held = [], 0
    for case, true in enumerate((0.6, 0.7)):
        op = operator(true)
        noise = torch.randn(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(case), dtype=torch.float64)
        y = op(score.sample(1, seed=case)) + SIGMA * noise
        logs = np.array(
            [
                float(linear_gaussian_posterior(torch.zeros(1, SIDE**2).double(), score.covariance(), operator(s), y)[2])
                for s in grid
            ]
        )
        weights = np.exp(logs - logs.max())
        weights /= weights.sum()
        mean = float((weights * np.log(grid)).sum())
        spread = math.sqrt(float((weights * (np.log(grid) - mean) ** 2).sum()))
        sampler = BlindSampler(score, family, sigma_y=SIGMA, boundary="circular", ratio=1e3, highest=30.0)
        draws = sampler.find(y).parameters["sigma"]
        errors.append((float(draws.log().mean()) - mean) / spread)
        low, high = draws.quantile(torch.tensor([0.05, 0.95], dtype=draws.dtype))
        held += bool(low <= true <= high)
    assert max(map(abs, errors)) < 1.5, errors
    assert held == 2
