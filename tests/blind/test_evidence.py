"""The evidence of a kernel against the marginal likelihood of a stationary Gaussian prior, which is known."""

import math

import numpy as np
import pytest
import torch

from invdiff.blind.evidence import evidence_terms, levels_between, noise_for
from invdiff.blind.measurement import blur_operator
from invdiff.blind.windows import Window
from invdiff.operators import gaussian_kernel
from invdiff.priors import Gaussian
from invdiff.priors.analytic.gaussian import linear_gaussian_posterior

SIDE, SIGMA = 8, 0.3
SHAPE = (1, SIDE, SIDE)


def prior():
    """Return a Gaussian prior whose variance falls with the frequency."""
    radius = (torch.fft.fftfreq(SIDE)[:, None] ** 2 + torch.fft.rfftfreq(SIDE) ** 2).sqrt().double()
    spectrum = 4 / (1 + (radius / 0.2) ** 2)
    return Gaussian.stationary(torch.zeros(SHAPE, dtype=torch.float64), spectrum[None])


def operator(sigma, factor=1):
    return blur_operator(SHAPE, gaussian_kernel(sigma, 7), boundary="circular", factor=factor, sigma_y=SIGMA)


def measured(op, seed):
    x = prior().sample(1, seed=seed)
    return op(x) + SIGMA * torch.randn(1, *op.out_shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(y):
    everywhere = torch.ones(1, 1, *y.shape[-2:], dtype=torch.float64)
    return Window(y, everywhere, everywhere > 0)


def exact(op, y):
    """Return the negative log density of ``y``, up to a constant."""
    score = prior()
    _, _, log_p = linear_gaussian_posterior(torch.zeros(1, SIDE**2, dtype=torch.float64), score.covariance(), op, y)
    return -float(log_p)


@pytest.mark.parametrize("factor", [1, 2])
def test_differences_of_the_evidence_are_those_of_the_marginal_likelihood(factor):
    ops = [operator(sigma, factor) for sigma in (0.5, 1.5)]
    score, y = prior(), measured(ops[0], seed=1)
    window = whole(y)
    levels = levels_between(SIGMA, 100.0, 40)
    differences = []
    for k in range(12):
        noise = noise_for(window, factor, levels, np.random.default_rng(k))
        terms = [evidence_terms(score, op, window, noise, sigma_y=SIGMA, ratio=1e4).sum() for op in ops]
        differences.append(float(terms[1] - terms[0]) * math.log(100 / SIGMA) / len(levels))
    right = exact(ops[1], y) - exact(ops[0], y)
    error = np.std(differences) / math.sqrt(len(differences))
    assert abs(right) > 6 * error  # A difference of 0 would fail.
    assert abs(np.mean(differences) - right) < 3 * error


def test_entries_that_do_not_count_are_ignored():
    op, score = operator(0.5), prior()
    y = measured(op, seed=2)
    counted = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.float64)
    counted[..., 2:6, 2:6] = 1
    noise = noise_for(Window(y, counted, counted > 0), 1, [1.0], np.random.default_rng(0))
    some, everything = (
        evidence_terms(score, op, Window(y, c, c > 0), noise, sigma_y=SIGMA, ratio=1e3)[0]
        for c in (counted, torch.ones_like(counted))
    )
    assert (some[:2] == 0).all()
    torch.testing.assert_close(some[2:6, 2:6], everything[2:6, 2:6])
    assert everything[:2].abs().sum() > 0
