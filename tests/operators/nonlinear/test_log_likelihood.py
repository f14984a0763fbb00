"""A log-likelihood as a measurement: its density is the given one, and samples have the posterior of Bayes' rule."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from classes import CLASSES, MIXTURE, log_class, of_class
from helpers import randn
from torch import Tensor, nn
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.operators import LogLikelihood, Mask, stack

COUNT = 2000


def first_class(x: Tensor) -> Tensor:
    return log_class(x, 0)


def classifier(**options: Any) -> LogLikelihood:
    return LogLikelihood(first_class, (2,), dtype=torch.float64, **options)


@pytest.mark.parametrize(("bound", "weight"), [(0.0, 1.0), (2.0, 0.5), (0.0, 3.0)])
def test_the_density_of_the_measurement_is_the_likelihood(bound: float, weight: float) -> None:
    op, x = classifier(bound=bound, weight=weight), 3 * randn(50, 2)
    x.requires_grad_()
    found, expected = op.noise.log_likelihood(op.observed(), op(x))[:, 0], weight * (first_class(x) - bound)
    assert_close(found, expected - math.log(2 * math.pi) / 2)
    slopes = [torch.autograd.grad(value.sum(), x, retain_graph=True)[0] for value in (found, expected)]
    assert_close(*slopes)


def test_certainty_has_no_slope_and_not_nan() -> None:
    op = LogLikelihood(lambda x: -(x**2).sum(1), (2,), dtype=torch.float64)
    x = torch.zeros(1, 2, dtype=torch.float64)
    assert torch.equal(op(x), torch.zeros(1, 1, dtype=torch.float64))
    assert torch.equal(op.jacobian(x).adjoint(op.observed() + 1), torch.zeros_like(x))


@pytest.mark.parametrize("label", range(CLASSES))
def test_samples_are_those_of_the_class(label: int) -> None:
    op = LogLikelihood(lambda x: log_class(x, label), (2,), dtype=torch.float64)
    post = PosteriorSampler(MIXTURE, op).run(op.observed(), num_samples=COUNT, seed=0)
    truth, samples = of_class(label).sample(COUNT, seed=1), post.samples[:, 0]
    for moment in (lambda x: x, lambda x: x**2, lambda x: x.prod(1, keepdim=True)):
        # Particles of a group share ancestors: their mean varies as that of a quarter of the number.
        error = moment(truth).std(0) * math.sqrt(1 / COUNT + 4 / COUNT)
        assert ((moment(samples).mean(0) - moment(truth).mean(0)).abs() < 4 * error).all()
    assert first_class(samples).exp().mean() == pytest.approx(1.0 - label, abs=0.05)


def test_temperature_sharpens() -> None:
    shares = []
    for weight in (0.1, 0.4, 1.0):
        op = classifier(weight=weight)
        post = PosteriorSampler(MIXTURE, op).run(op.observed(), num_samples=256, seed=0)
        shares.append(float(first_class(post.samples[:, 0]).mean()))
    assert shares == sorted(shares)


def test_stacks_with_a_measurement() -> None:
    """What is seen of x and what the classifier says of it, against the class seen alone."""
    seen, op = Mask(torch.tensor([True, False]), (2,), sigma_y=0.3), classifier()
    both = stack([seen, op])
    y = seen.measure(torch.tensor([[1.5, 0.0]], dtype=torch.float64), seed=0)
    post = PosteriorSampler(MIXTURE, both).run(torch.cat([y, op.observed()], 1), num_samples=COUNT, seed=0)
    truth = of_class(0).posterior(seen, y).sample(COUNT, seed=2)
    truth, samples = truth.reshape(-1, 2), post.samples[:, 0]
    error = truth.std(0) * math.sqrt(5 / COUNT)
    assert ((samples.mean(0) - truth.mean(0)).abs() < 4 * error).all()


@pytest.mark.filterwarnings("ignore:misfit")
@pytest.mark.parametrize("method", ["mmps", "dps", "dps-gaussian", "sda", "tds", "lgd-mc", "daps", "pnp-dm", "mm-tsmc"])
def test_methods_for_nonlinear_operators_take_it(method: str) -> None:
    """Most samples are of the class that was asked for, whichever that is."""
    for label in range(CLASSES):
        op = LogLikelihood(lambda x, label=label: log_class(x, label), (2,), dtype=torch.float64)
        steps = 10 if method in ("daps", "pnp-dm") else 50
        post = PosteriorSampler(MIXTURE, op, method=method, steps=steps).run(op.observed(), num_samples=64, seed=0)
        assert log_class(post.samples[:, 0], label).exp().mean() > 0.85


@pytest.mark.parametrize("method", ["pigdm", "ddnm", "ddrm", "exact-score"])
def test_others_refuse_it(method: str) -> None:
    op = classifier()
    with pytest.raises(ValueError, match=r"needs a linear operator, got LogLikelihood\."):
        PosteriorSampler(MIXTURE, op, method=method).run(op.observed(), num_samples=1)


@pytest.mark.parametrize(
    ("function", "options", "error", "message"),
    [
        (lambda x: x, {}, ValueError, r"one number for each item, shape \(B,\), got \(2, 2\)"),
        (lambda x: 5 + x[:, 0], {}, ValueError, r"returned .*, which exceeds the bound 0\. Give the largest possible"),
        (first_class, {"weight": 0.0}, ValueError, "a positive weight"),
        (first_class, {"bound": math.inf}, ValueError, "a finite bound"),
        (lambda x: -(x[:, 0].detach() ** 2), {}, ValueError, "no gradient"),
        (lambda x: -((x[:, 0] - x[:, 0].mean()) ** 2), {}, ValueError, "depend"),
        (lambda x: x[:, 0] > 0, {}, TypeError, "real floating-point tensor"),
        (lambda x: -(x[:, 0] ** 2) * math.nan, {}, ValueError, "returned NaN"),
        ("a classifier", {}, TypeError, "expected a function of x, got str"),
    ],
)
def test_bad_functions_are_refused(function: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LogLikelihood(function, (2,), dtype=torch.float64, **options)


def test_beyond_the_bound_a_run_fails_and_says_so() -> None:
    op = LogLikelihood(lambda x: x[:, 0] - 1.5, (2,), dtype=torch.float64)
    assert op(torch.tensor([[1.6, 0.0]], dtype=torch.float64)).isnan().all()


def test_of_a_network() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.LogSoftmax(1))
    op = LogLikelihood(lambda x: net(x)[:, 1], (3, 2, 2))
    assert op(torch.zeros(4, 3, 2, 2)).shape == (4, 1)
    assert repr(op).startswith("LogLikelihood((3, 2, 2) -> (1,)")
