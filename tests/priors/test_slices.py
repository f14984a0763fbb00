"""Volumes and clips under a prior of images: the denoiser is that of the product of the slices' distributions."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from helpers import randn
from torch import Tensor
from torch.testing import assert_close

from invdiff import PosteriorSampler, load_prior
from invdiff.operators import Mask
from invdiff.posterior.recommended import recommended, recommended_chain
from invdiff.priors import Gaussian, LatentPrior, Slices, Tiled, adapt, from_network
from invdiff.priors.trial import network_of
from invdiff.schedules import EDM

EVENT, DEPTH = (2, 3, 4), 5
TIMES = [torch.tensor(0.7, dtype=torch.float64), torch.tensor([0.2, 3.0], dtype=torch.float64)]


def one_slice() -> Gaussian:
    root = randn(24, 24, seed=1) / 5
    return Gaussian(randn(*EVENT, seed=2), root @ root.mT)


def stacked(axis: int) -> tuple[int, ...]:
    return (*EVENT[:axis], DEPTH, *EVENT[axis:])


def product(axis: int) -> Gaussian:
    """Return the distribution of independent slices as one Gaussian over the whole stack."""
    one, shape = one_slice(), stacked(axis)
    root = randn(24, 24, seed=1) / 5
    places = torch.arange(24 * DEPTH).reshape(shape).movedim(axis, 0).reshape(DEPTH, 24)
    cov = torch.zeros(24 * DEPTH, 24 * DEPTH, dtype=torch.float64)
    for place in places:
        cov[place[:, None], place] = root @ root.mT
    return Gaussian(one.mean.unsqueeze(axis).expand(shape).clone(), cov)


@pytest.mark.parametrize("t", TIMES, ids=["one time", "times of items"])
@pytest.mark.parametrize("rows", [None, 3])
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_denoiser_is_that_of_the_product(axis: int, rows: int | None, t: Tensor) -> None:
    score, x_t = Slices(one_slice(), axis=axis, rows=rows), randn(2, *stacked(axis), seed=3)
    assert score.event_shape == (*EVENT[:axis], None, *EVENT[axis:])
    assert_close(score.denoise(x_t, t), product(axis).denoise(x_t, t))
    assert_close(score.score(x_t, t), product(axis).score(x_t, t))


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_gradients_in_chunks_are_those_of_the_whole(rows: int) -> None:
    x_t, v = randn(2, *stacked(1), seed=3), randn(2, *stacked(1), seed=4)

    def gradient(score: Slices | Gaussian) -> Tensor:
        x = x_t.clone().requires_grad_()
        (found,) = torch.autograd.grad(score.denoise(x, TIMES[1]), x, v)
        return found

    assert_close(gradient(Slices(one_slice(), rows=rows)), gradient(product(1)))


def test_no_more_rows_than_asked_are_denoised_together() -> None:
    sizes = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        sizes.append(len(x))
        return x

    prior = from_network(network, EDM(), predicts="x0", event_shape=(3, None, None))
    Slices(prior, rows=4).denoise(randn(2, 3, 5, 4, 4), TIMES[0])
    assert sizes == [4, 4, 2]


def test_contract() -> None:
    inner = one_slice()
    score = Slices(inner, axis=-1, rows=2)
    assert (score.axis, score.schedule, score.scale, score.learned) == (3, inner.schedule, inner.scale, False)
    assert repr(score) == f"Slices({inner!r}, axis=3)"
    assert repr(Slices(inner)) == f"Slices({inner!r})"
    assert score.describe() == inner.describe() | {"slices": 3}
    x_t = randn(1, *stacked(3), seed=3)
    for other in (score.to("cpu"), copy.deepcopy(score), pickle.loads(pickle.dumps(score))):
        assert (other.axis, other.rows, other.event_shape) == (3, 2, score.event_shape)
        assert torch.equal(other.denoise(x_t, TIMES[0]), score.denoise(x_t, TIMES[0]))


def test_refuse() -> None:
    free = from_network(lambda x, t: x, EDM(), predicts="x0")
    posterior = one_slice().posterior(Mask(torch.ones(EVENT), sigma_y=0.1), randn(2, *EVENT))
    for prior, kind in ((free, "any number of axes"), (posterior, "items of a batch"), (latent(), "codes")):
        with pytest.raises(ValueError, match=f"got a prior of .*{kind}"):
            Slices(prior)
    with pytest.raises(ValueError, match="axis must be one of the 4 axes"):
        Slices(one_slice(), axis=4)
    with pytest.raises(ValueError, match="rows must be a whole number"):
        Slices(one_slice(), rows=0)


def latent() -> LatentPrior:
    return LatentPrior(Gaussian(torch.zeros(EVENT), torch.ones(EVENT)), lambda z: z)


class TestAdapt:
    def test_clips_under_a_prior_of_images(self) -> None:
        score, notes = adapt(one_slice(), stacked(1))
        assert isinstance(score, Slices)
        assert notes == ("the prior is for images: the 5 slices along axis 1 are taken as independent",)
        x_t = randn(2, *stacked(1), seed=3)
        assert_close(score.denoise(x_t, TIMES[0]), product(1).denoise(x_t, TIMES[0]))

    def test_slices_of_another_size(self) -> None:
        prior = from_network(lambda x, t: x, EDM(), predicts="x0", event_shape=(3, 8, 8))
        for given in (prior, Slices(prior), Slices(prior, rows=2)):
            score, notes = adapt(given, (3, 4, 20, 14))
            assert isinstance(score, Slices)
            assert isinstance(score.score_model, Tiled)
            assert score.rows == getattr(given, "rows", None)
            assert "14 x 20 is denoised through 6 windows" in notes[0]
            assert network_of(score) is prior

    def test_given_slices_stay(self) -> None:
        score = Slices(one_slice(), axis=2)
        assert adapt(score, stacked(2)) == (score, ())
        with pytest.raises(ValueError, match="The prior is for"):
            adapt(score, (2, 3, 4))


def test_a_learned_prior_of_images_keeps_the_settings_of_images() -> None:
    mask = torch.rand(3, 2, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    natural, clip, image = load_prior("natural"), Mask(mask, sigma_y=0.05), Mask(mask[:, 0], sigma_y=0.05)
    sampler = PosteriorSampler(natural, clip)
    assert isinstance(sampler.score, Slices)
    assert sampler.notes == ("the prior is for images: the 2 slices along axis 1 are taken as independent",)
    assert recommended(sampler.score, clip) == recommended_chain(natural, image)
