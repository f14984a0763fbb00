"""The exact posterior score: exact where everything is recorded, and on its way there where a part is imputed."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from helpers import norm, randn

from invdiff import PosteriorSampler
from invdiff.methods.guidance import ExactScore
from invdiff.operators import Blur, GaussianNoise, LinearOperator, Mask, Matrix, Operator, gaussian_kernel
from invdiff.priors import Gaussian, GaussianMixture

pytestmark = pytest.mark.slow

SIDE = 12
SHAPE = (1, SIDE, SIDE)
KERNEL = gaussian_kernel(1.0, 5)


def image_prior() -> Gaussian:
    rows, columns = torch.fft.fftfreq(SIDE, dtype=torch.float64), torch.fft.rfftfreq(SIDE, dtype=torch.float64)
    spectrum = (0.02 / (0.02 + rows[:, None] ** 2 + columns**2)).expand(1, SIDE, SIDE // 2 + 1)
    return Gaussian.stationary(torch.full(SHAPE, 0.2, dtype=torch.float64), spectrum)


def incomplete() -> dict[str, LinearOperator]:
    known = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) < 0.7
    return {
        "cut out of a larger blurred picture": Blur(SHAPE, KERNEL, boundary="valid", sigma_y=0.1),
        "pixels missing from a blurred picture": cast(LinearOperator, Mask(known, sigma_y=0.1) @ Blur(SHAPE, KERNEL)),
    }


@pytest.mark.parametrize("sigma_y", [0.3, 0.0])
def test_the_mean_is_exact_for_modes(sigma_y: float) -> None:
    """Where single chains of moment matching take a mixture for a Gaussian, this does not."""
    prior = GaussianMixture(
        torch.tensor([0.3, 0.7]).double(), 2 * randn(2, 6, seed=1), 0.2 * torch.eye(6).double().expand(2, 6, 6)
    )
    op = Matrix(randn(2, 6, seed=2), sigma_y=sigma_y)
    y = op.measure(prior.sample(4, seed=3), seed=4)
    exact, t = prior.posterior(op, y), prior.schedule.time(torch.tensor(1.5, dtype=torch.float64))
    x_t = randn(4, 6, seed=5)
    guidance = ExactScore(prior, op, y)
    assert torch.allclose(guidance.posterior_mean(guidance.at(x_t, t)), exact.denoise(x_t, t), atol=1e-6)


def test_modes_get_their_weights() -> None:
    prior = GaussianMixture(
        torch.tensor([0.5, 0.5]).double(),
        torch.tensor([[1.5, 1.0], [-1.5, 1.0]]).double(),
        torch.tensor([[0.05, 0.05], [0.05, 0.4]]).double(),
    )
    op = Mask(torch.tensor([0, 1]), sigma_y=0.1)
    y = torch.tensor([[0.0, 1.1]], dtype=torch.float64)
    share = float(prior.posterior(op, y).weights[0, 0])
    assert 0.6 < share < 0.9  # neither all nor half
    count = 1000
    post = PosteriorSampler(prior, op, method="exact-score", steps=60, ratio_max=30.0).run(y, num_samples=count)
    found = float((post.samples[:, 0, 0] > 0).double().mean())
    assert abs(found - share) < 4 * (share * (1 - share) / count) ** 0.5
    other = PosteriorSampler(prior, op, method="exact-score", steps=60, ratio_max=30.0).run(y + 3, num_samples=count)
    assert float((other.samples[:, 0, 0] > 0).double().mean()) < 0.05  # the second mode, by what was measured


@pytest.mark.parametrize("name", incomplete())
class TestImputation:
    def case(self, name: str) -> tuple[Any, LinearOperator, Any]:
        prior, op = image_prior(), incomplete()[name]
        prior.noise_kinds = frozenset({"frequency"})  # or the dense decomposition would serve
        return prior, op, op.measure(prior.sample(2, seed=1), seed=2)

    def test_a_part_of_the_whole(self, name: str) -> None:
        op = incomplete()[name]
        completed = op.completed
        assert completed is not None
        x = randn(2, *SHAPE)
        assert torch.allclose(completed.recorded(completed.whole(x)), op(x))
        assert completed.whole.sigma_y == op.sigma_y
        assert completed.whole.svd is not None
        assert completed.whole.svd.kind == "frequency"

    def test_rounds_end_at_the_exact_mean(self, name: str) -> None:
        prior, op, y = self.case(name)
        exact, t = prior.posterior(op, y), prior.schedule.time(torch.tensor(0.5, dtype=torch.float64))
        x_t = prior.schedule(t)[0] * prior.sample(2, seed=1) + prior.schedule(t)[1] * randn(2, *SHAPE, seed=3)
        target = exact.denoise(x_t, t)
        guidances = [ExactScore(prior, op, y, rounds=n) for n in (1, 5, 200)]
        errors = [float(norm(g.posterior_mean(g.at(x_t, t)) - target).max()) for g in guidances]
        assert errors[0] > errors[1] > errors[2]
        assert errors[2] < 1e-5

    def test_a_step_taken_again_is_the_same(self, name: str) -> None:
        prior, op, y = self.case(name)
        guidance, times = ExactScore(prior, op, y), prior.schedule.time(torch.tensor([2.0, 0.5], dtype=torch.float64))
        x_t = randn(2, *SHAPE, seed=3)
        guidance.posterior_mean(guidance.at(x_t, times[0]))
        first = guidance.posterior_mean(guidance.at(x_t, times[1]))
        assert torch.equal(guidance.posterior_mean(guidance.at(x_t, times[1])), first)

    def test_samples_follow_what_was_recorded(self, name: str) -> None:
        prior, op, y = self.case(name)
        sampler = PosteriorSampler(prior, op, method="exact-score", steps=32, ratio_max=10.0, rounds=2)
        post = sampler.run(y, num_samples=60)
        assert post.nfe == 32 * 2 + 1
        exact = prior.posterior(op, y)
        scale = exact.covariance().diagonal().sqrt().reshape(SHAPE)
        bias = ((post.mean - exact.mean) / scale).square().mean((1, 2, 3)).sqrt()
        # Chance is 0.13; few turns leave about as much. What ignores y, or has that of the other item, is far off.
        assert (bias < 0.3).all()
        assert (((post.mean.flip(0) - exact.mean) / scale).square().mean((1, 2, 3)).sqrt() > 1).all()


def test_what_fits_no_basis_is_refused() -> None:
    prior = image_prior()
    prior.noise_kinds = frozenset({"pixel"})
    for op in incomplete().values():
        with pytest.raises(ValueError, match=r"exact-score: .* leaves dense noise, and the prior accepts pixel"):
            ExactScore(prior, op, torch.zeros(1, *op.out_shape))
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        ExactScore(image_prior(), Mask(torch.ones(SHAPE), sigma_y=0.1), torch.zeros(1, *SHAPE), rounds=0)


def test_noise_that_differs_from_pixel_to_pixel() -> None:
    prior = image_prior()
    levels = 0.05 + torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)).double()
    op: Operator = Mask(torch.ones(SHAPE), noise=GaussianNoise(levels))
    y = op.measure(prior.sample(1, seed=1), seed=2)
    # A Mask is whitened by the sampler; the exact posterior is worked out from the whitened operator too.
    sampler = PosteriorSampler(prior, op, method="exact-score", steps=80, ratio_max=20.0)
    post = sampler.run(y, num_samples=200)
    white = cast(LinearOperator, sampler.white)
    exact = prior.posterior(white, y / levels)
    z = (post.mean - exact.mean) / (exact.covariance().diagonal().reshape(SHAPE) / 200).sqrt()
    assert z.abs().max() < 4.5
