"""Complex images under a gray prior: the denoiser is that of the product of the distributions of both parts."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from helpers import randn
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.operators import MRI, Mask
from invdiff.priors import Complex, Gaussian, Gray, LatentPrior, Tiled, adapt, from_network
from invdiff.schedules import EDM

EVENT, WIDTH = (1, 4, 6), 0.3
PIXELS = 24
TIMES = [torch.tensor(0.7, dtype=torch.float64), torch.tensor([0.2, 3.0], dtype=torch.float64)]


def gray() -> Gaussian:
    root = randn(PIXELS, PIXELS, seed=1) / 5
    return Gaussian(randn(*EVENT, seed=2), root @ root.mT)


WIDTHS = randn(4, 6, seed=7).abs()  # of every pixel


def product(width: float | torch.Tensor | None = WIDTH) -> Gaussian:
    """Return the distribution of both parts as one Gaussian of ``(2, H, W)``."""
    one = gray()
    root = randn(PIXELS, PIXELS, seed=1) / 5
    second = root @ root.mT if width is None else (torch.ones(4, 6) * width).double().square().flatten().diag()
    mean = torch.cat([one.mean, one.mean if width is None else torch.zeros_like(one.mean)])
    return Gaussian(mean, torch.block_diag(root @ root.mT, second))


@pytest.mark.parametrize("t", TIMES, ids=["one time", "times of items"])
@pytest.mark.parametrize("width", [WIDTH, WIDTHS, None], ids=["number", "pixels", "gray"])
def test_denoiser_is_that_of_the_product(width: float | torch.Tensor | None, t: torch.Tensor) -> None:
    score, x_t = Complex(gray(), width=width), randn(2, 2, 4, 6, seed=3)
    assert_close(score.denoise(x_t, t), product(width).denoise(x_t, t))
    assert_close(score.score(x_t, t), product(width).score(x_t, t))


def test_gradient_is_that_of_the_product() -> None:
    x_t, v = randn(2, 2, 4, 6, seed=3), randn(2, 2, 4, 6, seed=4)
    found, expected = (
        torch.func.vjp(lambda x, s=score: s.denoise(x, TIMES[1]), x_t)[1](v)[0]
        for score in (Complex(gray(), width=WIDTH), product())
    )
    assert_close(found, expected)


def test_samples_have_the_exact_posterior() -> None:
    """Half of k-space: mean and variance of both parts, within Monte Carlo error, and not those of other data."""
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[:, ::2] = True
    op = MRI((2, 4, 6), mask, sigma_y=0.2)
    y = op.measure(product(WIDTHS).sample(2, seed=1), seed=2)
    post = PosteriorSampler(Complex(gray(), width=WIDTHS), op, steps=40).run(y[:1].float(), num_samples=3000, seed=0)
    draws = post.samples[:, 0].flatten(1).double()
    exact, other = (product(WIDTHS).posterior(op, one) for one in (y[:1], y[1:]))
    variance = exact.covariance().diagonal()

    def worst(mean: torch.Tensor) -> float:
        return float(((draws.mean(0) - mean.flatten()) / (variance / len(draws)).sqrt()).abs().max())

    assert worst(exact.mean) < 4.5
    assert worst(other.mean) > 9
    assert (draws.var(0) / variance - 1).abs().max() < 0.15


def test_contract() -> None:
    inner = gray()
    score = Complex(inner, width=WIDTH)
    assert (score.event_shape, score.schedule, score.scale, score.learned) == ((2, 4, 6), inner.schedule, inner.scale, False)
    assert repr(score) == f"Complex({inner!r}, width=0.3)"
    assert score.describe() == inner.describe() | {"complex": 0.3}
    x_t = randn(1, 2, 4, 6, seed=3)
    for other in (score.to("cpu"), copy.deepcopy(score), pickle.loads(pickle.dumps(score))):
        assert torch.equal(other.denoise(x_t, TIMES[0]), score.denoise(x_t, TIMES[0]))


def test_color_priors_are_restricted_to_gray_and_fixed_sizes_tiled() -> None:
    color = from_network(lambda x, t: x, EDM(), predicts="x0", event_shape=(3, 8, 8))
    score = Complex(color)
    assert isinstance(score.score_model, Gray)
    tiled, _ = adapt(score, (2, 12, 10))
    assert isinstance(tiled, Tiled)
    assert tiled.denoise(randn(1, 2, 12, 10), TIMES[0]).shape == (1, 2, 12, 10)


def test_refuse() -> None:
    posterior = gray().posterior(Mask(torch.ones(EVENT), sigma_y=0.1), randn(2, *EVENT))
    latent = LatentPrior(Gaussian(torch.zeros(EVENT), torch.ones(EVENT)), lambda z: z)
    free = from_network(lambda x, t: x, EDM(), predicts="x0")
    for prior, kind in ((free, "shape None"), (posterior, "items of a batch"), (latent, "codes")):
        with pytest.raises(ValueError, match=f"got a prior of .*{kind}"):
            Complex(prior)
    for width in (-1.0, float("nan"), torch.ones(3)):
        with pytest.raises(ValueError, match="width must be a number of at least 0"):
            Complex(gray(), width=width)
    with pytest.raises(ValueError, match="widths for"):
        Complex(gray(), width=torch.ones(5, 6))
