"""The handover: the exact posterior score above a level, matched moments below, and what draws claim in between."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import randn
from torch import Tensor
from torch.testing import assert_close

from invdiff import PosteriorSampler, load_prior
from invdiff.methods.guidance import MMPS, ExactScore, Handover
from invdiff.operators import ChannelMix, Mask
from invdiff.priors import GaussianMixture
from invdiff.random import Streams

pytestmark = pytest.mark.slow

SHAPE = (3, 32, 32)


def natural() -> Any:
    return load_prior("natural", precision="float32")


def scene() -> tuple[Mask, Tensor, Tensor]:
    """Return a mask with a hole, a smooth picture ``(1, 3, 32, 32)`` and what is measured of it."""
    known = torch.ones(SHAPE[1:], dtype=torch.bool)
    known[10:22, 8:24] = False
    ramp = torch.linspace(-0.6, 0.6, 32)
    picture = torch.stack([ramp.expand(32, 32), ramp[:, None].expand(32, 32), torch.full((32, 32), 0.2)])[None]
    op = Mask(known, SHAPE, sigma_y=0.0)
    return op, picture, op(picture)


def drawn(guidance: Any, x_t: Tensor, t: Tensor) -> Tensor:
    streams = Streams([torch.Generator().manual_seed(b) for b in range(len(x_t))])
    found: Tensor = guidance.posterior_draw(guidance.at(x_t, t), streams.normal)
    return found


def mean(guidance: Any, x_t: Tensor, t: Tensor) -> Tensor:
    found: Tensor = guidance.posterior_mean(guidance.at(x_t, t))
    return found


@pytest.mark.parametrize(("ratio", "whose"), [(3.0, ExactScore), (1.0, ExactScore), (0.9, MMPS), (0.1, MMPS)])
def test_each_has_its_levels(ratio: float, whose: Any) -> None:
    prior, (op, picture, y) = natural(), scene()
    t = prior.schedule.time(torch.tensor(ratio))
    x_t = picture + ratio * randn(1, *SHAPE, dtype=torch.float32)
    both, alone, other = Handover(prior, op, y), whose(prior, op, y), {MMPS: ExactScore, ExactScore: MMPS}[whose](prior, op, y)
    assert_close(mean(both, x_t, t), mean(alone, x_t, t))
    assert_close(drawn(both, x_t, t), drawn(alone, x_t, t))
    assert (mean(both, x_t, t) - mean(other, x_t, t)).abs().max() > 1e-3


def test_the_level_can_be_given() -> None:
    prior, (op, picture, y) = natural(), scene()
    t = prior.schedule.time(torch.tensor(2.0))
    x_t = picture + 2 * randn(1, *SHAPE, dtype=torch.float32)
    assert_close(mean(Handover(prior, op, y, ratio=3.0), x_t, t), mean(MMPS(prior, op, y), x_t, t))
    with pytest.raises(ValueError, match="handover: ratio must be positive, got 0"):
        Handover(prior, op, y, ratio=0.0)


def test_modes_are_told_apart_where_there_is_much_noise() -> None:
    """Two far modes of which y says which is likelier: a single chain of matched moments, handed over early, mixes them up."""
    spread = torch.full((2, 2), 0.04, dtype=torch.float64)
    prior = GaussianMixture(torch.tensor([0.5, 0.5]).double(), torch.tensor([[3.0, 1.0], [-3.0, -1.0]]).double(), spread)
    op, y, count = Mask(torch.tensor([0, 1]), sigma_y=0.7), torch.tensor([[0.0, 0.5]], dtype=torch.float64), 400
    share = float(prior.posterior(op, y).weights[0, 0])
    assert 0.8 < share < 0.9
    error = 4 * (share * (1 - share) / count) ** 0.5

    def found(y: Tensor, ratio: float) -> float:
        sampler = PosteriorSampler(prior, op, method="handover", steps=40, ratio_max=30.0, ratio=ratio)
        return float((sampler.run(y, num_samples=count).samples[:, 0, 0] > 0).double().mean())

    assert abs(found(y, 0.5) - share) < error
    assert abs(found(y, 29.0) - share) > error
    assert abs(found(-y, 0.5) - (1 - share)) < error  # the other mode, by what was measured


def test_draws_claim_no_more_at_high_noise_than_there_is() -> None:
    """The spread of draws given y stays of the size of the error, where the solves for wider covariances would not end."""
    prior, (op, picture, y) = natural(), scene()
    claimed = []
    for ratio in (1.0, 10.0, 80.0):
        x_t = (picture + ratio * randn(4, *SHAPE, dtype=torch.float32)).float()
        guidance, t = ExactScore(prior, op, y.expand(4, *SHAPE)), prior.schedule.time(torch.tensor(ratio))
        gap = drawn(guidance, x_t, t) - mean(guidance, x_t, t)
        claimed.append(float(gap.square().mean().sqrt()))
    assert max(claimed) < 2 * claimed[0]
    assert claimed[0] > 0.005


def test_what_either_refuses() -> None:
    prior, grey = natural(), ChannelMix(SHAPE, torch.tensor([[0.3, 0.6, 0.1]]), sigma_y=0.1)
    with pytest.raises(ValueError, match="exact-score: ChannelMix leaves dense noise"):
        PosteriorSampler(prior, grey, method="handover")
    op, _, y = scene()
    prior.error_model = None
    with pytest.raises(ValueError, match="the rule 'matched' follows draws, which need a prior whose error was measured"):
        PosteriorSampler(prior, op, method="handover", rule="matched").run(y, num_samples=1)
