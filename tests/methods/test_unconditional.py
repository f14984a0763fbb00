"""Samples of the prior alone follow the prior."""

from __future__ import annotations

import pytest
import torch
from cases import build
from torch.testing import assert_close

from invdiff.methods.steps import DDIM, sample_prior
from invdiff.priors import Gaussian, GaussianMixture

COUNT = 4000


@pytest.mark.parametrize("rule", [None, DDIM(eta=1.0)], ids=["heun", "ddpm"])
def test_moments_of_a_gaussian(rule: DDIM | None) -> None:
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    prior = Gaussian(torch.tensor([0.5, -1.0]), covariance)
    samples = sample_prior(prior, (2,), COUNT, seed=0, steps=200, rule=rule).double()
    error = (covariance.diagonal() / COUNT).sqrt()
    assert bool(((samples.mean(0) - prior.mean.double()).abs() < 4.5 * error).all())
    # The variance of an estimated covariance entry is (c_ii c_jj + c_ij^2) / n.
    diagonal = covariance.diagonal()
    error = ((torch.outer(diagonal, diagonal) + covariance**2) / COUNT).sqrt()
    assert bool(((samples.T.cov() - covariance).abs() < 4.5 * error).all())


def test_shares_of_a_mixture() -> None:
    prior = GaussianMixture(torch.tensor([0.2, 0.8]), torch.tensor([[-3.0], [3.0]]), 0.1 * torch.eye(1).expand(2, 1, 1))
    samples = sample_prior(prior, (1,), COUNT, seed=0, steps=100)
    share = float((samples < 0).double().mean())
    assert share == pytest.approx(0.2, abs=4.5 * (0.2 * 0.8 / COUNT) ** 0.5)


def test_a_sample_does_not_know_its_neighbours() -> None:
    prior = build(Gaussian)[0]
    shape = tuple(prior.mean.shape)
    many, few = (sample_prior(prior, shape, count, seed=3, steps=5) for count in (7, 2))
    assert_close(many[:2], few)
    assert not torch.equal(many[0], many[1])
    assert not torch.equal(few, sample_prior(prior, shape, 2, seed=4, steps=5))
