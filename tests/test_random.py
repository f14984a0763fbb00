"""Laws of the random streams: what a sample draws depends on (seed, purpose, item, sample) and nothing else."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from invdiff.random import BLOCK, PURPOSES, Draws, Streams, generator

EVENTS = [(), (1,), (5,), (3, 8, 8), (BLOCK + 1,)]


def draws(rows: list[tuple[int, int]], event: tuple[int, ...], *, count: int = 3, seed: int = 0) -> Tensor:
    streams = Streams([generator(seed, "sample", item, sample) for item, sample in rows])
    return torch.stack([streams.normal(event) for _ in range(count)], 1)


@pytest.mark.parametrize("event", EVENTS, ids=str)
def test_a_row_does_not_depend_on_the_batch(event: tuple[int, ...]) -> None:
    rows = [(0, 0), (0, 1), (3, 0), (2, 7)]
    together = draws(rows, event)
    assert together.shape == (4, 3, *event)
    for i, row in enumerate(rows):
        assert torch.equal(draws([row], event)[0], together[i])
    assert torch.equal(draws(rows[::-1], event), together.flip(0))
    assert torch.equal(torch.cat([draws(rows[:1], event), draws(rows[1:], event)]), together)


@pytest.mark.parametrize("event", EVENTS, ids=str)
def test_draws_go_on_for_ever_without_repeating(event: tuple[int, ...]) -> None:
    count = 2 * BLOCK // max(1, torch.Size(event).numel()) + 3
    noise = draws([(0, 0)], event, count=count)[0].flatten()
    assert noise.unique().numel() > 0.99 * noise.numel()
    assert abs(float(noise.mean())) < 5 / noise.numel() ** 0.5
    assert abs(float((noise**2).mean()) - 1) < 5 * (2 / noise.numel()) ** 0.5


def test_numbers_are_normal_across_samples_and_items() -> None:
    noise = torch.cat([draws([(b, k) for k in range(500)], (4,), count=1)[:, 0] for b in range(4)]).double()
    assert abs(float(noise.mean())) < 5 / noise.numel() ** 0.5
    assert abs(float(noise.var()) - 1) < 5 * (2 / noise.numel()) ** 0.5
    neighbours = torch.corrcoef(torch.stack([noise[:-1].flatten(), noise[1:].flatten()]))[0, 1]
    assert abs(float(neighbours)) < 5 / noise.numel() ** 0.5


def test_every_key_has_a_stream_of_its_own() -> None:
    keys = list(itertools.product((0, 1, 2**32, 2**64 + 1), PURPOSES, (0, 1), (0, 1)))
    first = [float(torch.randn((), generator=generator(*key))) for key in keys]
    assert len(set(first)) == len(keys)


def test_no_two_samples_of_an_item_share_a_stream() -> None:
    # A CPU generator counts the low 32 bits of its seed alone: these two collided when the seed was a plain hash.
    a, b = (torch.randn(8, generator=generator(0, "sample", 0, k)) for k in (117121, 118874))
    assert not torch.equal(a, b)
    low = {generator(0, "sample", 0, k).initial_seed() % 2**32 for k in range(2000)}
    assert len(low) == 2000


def test_zero_is_a_seed_and_numpy_integers_are_integers() -> None:
    assert torch.equal(draws([(0, 0)], (4,), seed=0), draws([(0, 0)], (4,), seed=0))
    assert not torch.equal(draws([(0, 0)], (4,), seed=0), draws([(0, 0)], (4,), seed=1))
    assert torch.equal(draws([(0, 0)], (4,), seed=3), draws([(0, 0)], (4,), seed=int(np.int64(3))))
    assert generator(3, "sample", 0, 0).initial_seed() == generator(np.int64(3), "sample", 0, 0).initial_seed()  # type: ignore[arg-type]


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    draws([(0, 0)], (4,))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("seed", [-1, 1.0, True, None, "0"])
def test_refuses_bad_seeds(seed: Any) -> None:
    with pytest.raises(ValueError, match="non-negative integer"):
        generator(seed, "sample", 0, 0)


def test_refuses_an_unknown_purpose() -> None:
    with pytest.raises(ValueError, match="purpose"):
        generator(0, "nothing", 0, 0)


def test_shapes_and_dtypes_may_alternate() -> None:
    """Rows keep their streams apart, and what a row draws depends on the order of its calls alone."""
    calls: list[tuple[tuple[int, ...], torch.dtype]] = [
        ((4,), torch.float64), ((2, 3), torch.float32), ((4,), torch.float64), ((3,), torch.float64)
    ]  # fmt: skip
    both = Streams([generator(0, "sample", 0, k) for k in (0, 1)])
    alone = Streams([generator(0, "sample", 0, 1)])
    seen = []
    for event, dtype in calls * 3:
        noise = both.normal(event, dtype=dtype)
        assert (noise.shape, noise.dtype) == ((2, *event), dtype)
        assert torch.equal(noise[1:], alone.normal(event, dtype=dtype))
        seen += noise.flatten().tolist()
    assert len(set(seen)) == len(seen)


def test_the_noise_of_a_step_can_be_had_again() -> None:
    draw = Draws(Streams([generator(0, "sample", 0, 0)]), torch.float64)
    first = [draw((4,)), draw((2,))]
    again = draw.again()
    assert torch.equal(again((4,)), first[0])
    assert torch.equal(again((2,)), first[1])
    assert not torch.isin(again((4,)), first[0]).any()


def test_noise_may_be_edited() -> None:
    streams, again = (Streams([generator(0, "sample", 0, 0)]) for _ in range(2))
    streams.normal((4,)).zero_()
    again.normal((4,))
    assert_close(streams.normal((4,)), again.normal((4,)))
