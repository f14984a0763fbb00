"""The moment-matched kernel and the particles built on it: exact for Gaussian priors at any number of steps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import norm, randn
from torch import Tensor
from torch.testing import assert_close

from invdiff import DivergenceError, PosteriorSampler
from invdiff.linalg import dense_matrix_per_item, krylov_spectrum, positive_eigen
from invdiff.methods.denoised import Denoised
from invdiff.methods.guidance import MMPS
from invdiff.methods.moments import TweedieGaussian
from invdiff.methods.particles import MMTSMC
from invdiff.methods.particles.loop import systematic_resampling
from invdiff.operators import Function, LinearOperator, Mask, Matrix
from invdiff.priors import Gaussian, GaussianMixture, from_network
from invdiff.priors.analytic.gaussian import linear_gaussian_posterior
from invdiff.schedules import EDM, VP, Schedule

pytestmark = pytest.mark.slow

STANDARD_ERRORS = 4.5


def root() -> Tensor:
    return randn(8, 8, seed=1) / 8**0.5


def gaussian(schedule: Schedule | None = None) -> Gaussian:
    return Gaussian(randn(8, seed=2), root() @ root().mT + 0.05 * torch.eye(8), schedule=schedule)


OPERATORS = [
    pytest.param(Matrix(randn(3, 8, seed=3), sigma_y=0.2), id="Matrix"),
    pytest.param(Matrix(randn(3, 8, seed=3)), id="exact data"),
    pytest.param(Mask(torch.tensor([1, 0, 0, 1, 1, 0, 0, 1]), sigma_y=0.1), id="Mask"),
]


def check(samples: Tensor, mean: Tensor, cov: Tensor) -> None:
    """Hold the mean and all second moments to their Monte Carlo errors, and what is known exactly to its value."""
    values, vectors = torch.linalg.eigh(cov)
    free = values > 1e-9
    count, deviation = len(samples), (samples - mean) @ vectors
    whitened = deviation[:, free] / values[free].sqrt()
    assert whitened.mean(0).abs().max() < STANDARD_ERRORS / count**0.5
    moments = whitened.mT @ whitened / count - torch.eye(int(free.sum()), dtype=samples.dtype)
    assert moments.abs().max() < STANDARD_ERRORS * (2 / count) ** 0.5
    assert (deviation[:, ~free].abs() < 1e-3).all()


# Noise at the start drowns the data: what a first state still tells of them is lost with it.
PATHS = [pytest.param(VP(), id="VP"), pytest.param(EDM(sigma_max=300.0), id="EDM")]


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("schedule", PATHS)
@pytest.mark.parametrize("method", ["mmps", "mm-tsmc"])
def test_few_steps_are_an_exact_posterior_draw(method: str, schedule: Schedule, steps: int, op: LinearOperator) -> None:
    prior = gaussian(schedule)
    y, other = (op.measure(prior.sample(1, seed=s), seed=s + 1) for s in (4, 14))
    options: dict[str, Any] = {"rule": "matched", "root_iterations": 8} if method == "mmps" else {"iterations": 8}
    post = PosteriorSampler(prior, op, method=method, steps=steps, **options).run(y, num_samples=2000)
    exact = prior.posterior(op, y)
    check(post.samples[:, 0], exact.mean[0], exact.covariance())
    with pytest.raises(AssertionError):
        check(post.samples[:, 0], prior.posterior(op, other).mean[0], exact.covariance())
    ddpm = PosteriorSampler(prior, op, method="mmps", rule="ddpm", steps=steps).run(y, num_samples=2000)
    with pytest.raises(AssertionError):  # DDPM takes the mean where this takes a draw.
        check(ddpm.samples[:, 0], exact.mean[0], exact.covariance())


@pytest.mark.parametrize("op", OPERATORS)
def test_iterative_draws_are_those_of_eigenvectors(op: LinearOperator) -> None:
    """By Krylov spaces and GMRES, to their tolerances."""
    prior, t = gaussian(), VP().time(0.7)
    y, x_t = op.measure(prior.sample(3, seed=4), seed=5), randn(3, 8, seed=6)
    noise = {8: randn(3, 8, seed=7), 3: randn(3, 3, seed=8)}
    drawn = []
    for exact_up_to, root_iterations in ((8, 8), (0, 7)):
        options: dict[str, Any] = {"exact_up_to": exact_up_to, "root_iterations": root_iterations}
        guidance = MMPS(prior, op, y, rtol=1e-12, max_iterations=50, **options)
        drawn.append(guidance.posterior_draw(guidance.at(x_t, t), lambda event: noise[event[-1]]))
    assert_close(drawn[1], drawn[0], rtol=1e-3, atol=1e-3)


class TestWeights:
    @pytest.mark.parametrize("op", OPERATORS)
    @pytest.mark.parametrize("steps", [1, 4])
    def test_are_constant_for_gaussian_priors_and_give_the_evidence(self, op: LinearOperator, steps: int) -> None:
        prior = gaussian()
        y = op.measure(prior.sample(3, seed=4), seed=5)
        post = PosteriorSampler(prior, op, method="mm-tsmc", steps=steps, iterations=8, weighted=True).run(y, num_samples=32)
        assert post.particles is not None
        assert (post.ess > 31.5).all()  # What is left is what the first states tell.
        if op.sigma_y:
            kept = y[0] != 0  # A mask leaves numbers out, and the evidence is that of the others.
            matrix = op.matrix if isinstance(op, Matrix) else torch.eye(8)[kept].double()
            law = torch.distributions.MultivariateNormal(
                matrix @ prior.mean, matrix @ prior.covariance() @ matrix.mT + op.sigma_y**2 * torch.eye(len(matrix))
            )
            assert_close(post.particles.log_evidence, law.log_prob(y[:, kept]), rtol=0, atol=0.05)

    @pytest.mark.parametrize("weighted", [False, True])
    def test_find_the_weights_of_modes(self, weighted: bool) -> None:
        """Three modes, unequally heavy and partly told apart: a single chain is far off, particles are within their error."""
        means = torch.tensor([[8.0, 8.0], [-8, 8], [0, -8]], dtype=torch.float64)
        prior = GaussianMixture(torch.tensor([0.1, 0.4, 0.5]).double(), means, torch.ones(3, 2).double().diag_embed())
        op = Matrix(torch.tensor([[1.0, 0.4]]), sigma_y=4.0)
        y = torch.tensor([[3.0]]).double()
        exact = prior.posterior(op, y)
        truth = exact.weights[0]
        post = PosteriorSampler(prior, op, method="mm-tsmc", steps=20, weighted=weighted).run(y, num_samples=800)
        found = (post.weights[:, 0, None] * _modes(post.samples[:, 0], means)).sum(0)
        assert (found - truth).abs().max() < 0.06
        chain = PosteriorSampler(prior, op, method="mmps", steps=20).run(y, num_samples=200)
        assert (_modes(chain.samples[:, 0], means).mean(0) - truth).abs().max() > 0.1
        assert post.particles is not None
        _, _, logs = zip(
            *(linear_gaussian_posterior(m[None], c, op, y) for m, c in zip(means, prior.covs, strict=True)), strict=True
        )
        log_p = (torch.stack(logs).flatten() + prior.weights.log()).logsumexp(0) - 0.5 * math.log(2 * math.pi)
        assert float(post.particles.log_evidence) == pytest.approx(float(log_p), abs=0.1)
        assert post.particles.ancestors < 800

    def test_of_nonlinear_measurements_end_with_the_likelihood(self) -> None:
        """y = |x| of N(0, I) with a mean: both signs, as integrated on a grid."""
        prior = Gaussian(torch.tensor([0.3, -0.2]).double(), torch.ones(2).double())
        op = Function(torch.abs, (2,), sigma_y=0.3)
        y = torch.tensor([[1.0, 0.8]]).double()
        post = PosteriorSampler(prior, op, method="mm-tsmc", steps=40, particles=50, weighted=True).run(y, num_samples=2000)
        axis = torch.linspace(-4, 4, 401, dtype=torch.float64)
        for i in range(2):
            log_p = -0.5 * (axis - prior.mean[i]) ** 2 - 0.5 * ((axis.abs() - y[0, i]) / 0.3) ** 2
            p = log_p.softmax(0)
            mean, positive = float((p * axis).sum()), float(p[axis > 0].sum())
            assert float(post.mean[0, i]) == pytest.approx(mean, abs=0.12)
            assert float((post.weights[:, 0] * (post.samples[:, 0, i] > 0)).sum()) == pytest.approx(positive, abs=0.08)

    def test_systematic_resampling(self) -> None:
        weights = torch.tensor([0.5, 0.0, 0.26, 0.24], dtype=torch.float64)
        for u in (0.0, 0.3, 0.99):
            counts = systematic_resampling(weights, u).bincount(minlength=4)
            assert counts[0] == 2
            assert counts[1] == 0
            assert counts.sum() == 4
        mean = (
            torch.stack([systematic_resampling(weights, u / 1000).bincount(minlength=4) for u in range(1000)]).double().mean(0)
        )
        assert_close(mean, 4 * weights, rtol=0, atol=2e-3)

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="at most 64, got 65"):
            PosteriorSampler(Gaussian(torch.zeros(65), torch.ones(65)), Matrix(torch.eye(65), sigma_y=0.1), method="mm-tsmc")
        with pytest.raises(ValueError, match="at least 2 particles"):
            MMTSMC(gaussian(), Matrix(randn(3, 8), sigma_y=0.1), torch.zeros(1, 3), particles=1)
        with pytest.raises(ValueError, match="iterations must be at least 1"):
            MMTSMC(gaussian(), Matrix(randn(3, 8), sigma_y=0.1), torch.zeros(1, 3), iterations=0)


def _modes(x: Tensor, means: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(torch.cdist(x, means).argmin(1), len(means)).double()


# The pieces.


class TestSpectra:
    def test_functions_of_a_covariance(self) -> None:
        prior, t = gaussian(), VP().time(0.7)
        x_t, v = randn(3, 8, seed=6), randn(3, 8, seed=7)
        alpha, sigma = prior.schedule(t)
        cov = prior.covariance()
        exact = cov - alpha**2 * cov @ torch.linalg.inv(alpha**2 * cov + sigma**2 * torch.eye(8)) @ cov
        values, vectors = torch.linalg.eigh(exact)
        for iterations in (8, 7):  # Eigenvectors, and a Krylov space one short of the whole.
            moments = TweedieGaussian(Denoised(prior, x_t, t, differentiable=True), iterations=iterations)
            assert_close(moments.product(v), v @ exact)
            for function in (torch.sqrt, lambda w: 1 / (0.1 + w)):
                found = moments.spectrum(v).apply(function)
                tolerance = 1e-9 if iterations == 8 else 0.02
                assert (norm(found - v @ (vectors * function(values)) @ vectors.mT) < tolerance * norm(found)).all()

    def test_as_many_iterations_as_distinct_eigenvalues_are_exact(self) -> None:
        basis = torch.linalg.qr(randn(20, 20)).Q
        values = torch.tensor([0.0, 1.0, 4.0]).double()[torch.arange(20) % 3]
        matrix, v = basis * values @ basis.mT, randn(2, 20, seed=1)
        for iterations in (3, 6, 30):  # More change nothing.
            found = krylov_spectrum(lambda x: x @ matrix, v, iterations=iterations).apply(torch.sqrt)
            assert_close(found, v @ (basis * values.sqrt()) @ basis.mT, rtol=1e-6, atol=1e-6)

    def test_items_are_independent_and_what_is_not_finite_stays_so(self) -> None:
        matrix, v = root() @ root().mT, randn(3, 8)
        together = krylov_spectrum(lambda x: x @ matrix, v, iterations=4).apply(torch.sqrt)
        assert_close(krylov_spectrum(lambda x: x @ matrix, v[1:2], iterations=4).apply(torch.sqrt), together[1:2])
        v[1, 0] = torch.nan
        found = krylov_spectrum(lambda x: x @ matrix, v, iterations=4).apply(torch.sqrt)
        assert found[1].isnan().all()
        assert_close(found[[0, 2]], together[[0, 2]])

    def test_negative_and_asymmetric_parts(self) -> None:
        values, vectors = positive_eigen(torch.tensor([[[2.0, 1.0], [-1.0, -3.0]]]).double())
        assert_close(vectors.abs()[0], torch.eye(2).flip(0).double())
        assert_close(values, torch.tensor([[0.0, 2.0]]).double())

    def test_dense_matrix_per_item(self) -> None:
        matrices = randn(3, 4, 4)
        found = dense_matrix_per_item(
            lambda v: torch.einsum("bij,bj->bi", matrices, v.flatten(1)).reshape(v.shape), randn(3, 2, 2)
        )
        assert_close(found, matrices)


@pytest.mark.filterwarnings("ignore:from_network")
def test_a_network_that_explodes_is_named() -> None:
    # Only at high noise: one that always returns NaN is refused before.
    prior = from_network(lambda x, t: torch.where(t[:, None] > 3, torch.nan, x), EDM(), predicts="x0", event_shape=(4,))
    with pytest.raises(DivergenceError, match=r"mm-tsmc: sample \d of item 0 diverged at step 1"):
        PosteriorSampler(prior, Matrix(randn(2, 4), sigma_y=0.1), method="mm-tsmc", steps=3).run(torch.zeros(1, 2).double())
