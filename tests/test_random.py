"""Laws of the random streams: what a sample draws depends on (seed, purpose, item, sample) and nothing else."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.testing import assert_close

from invdiff.random import BLOCK, CELL, PURPOSES, Draws, PlacedNoise, SharedNoise, Streams, generator

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


def test_the_first_noise_of_a_step_is_kept() -> None:
    draw, alone = (Draws(Streams([generator(0, "sample", 0, 0)]), torch.float64) for _ in range(2))
    assert draw.first is None
    drawn = [draw((4,)), draw((4,))]
    assert draw.first is drawn[0]
    assert torch.equal(alone((4,)), drawn[0])
    assert not torch.isin(drawn[1], drawn[0]).any()


def test_large_noise_is_held_by_its_owner_alone() -> None:
    streams = Streams([generator(0, "sample", 0, 0)])
    noise = streams.normal((2 * BLOCK,))
    memory = StorageWeakRef(noise.untyped_storage())
    assert not memory.expired()
    del noise
    assert memory.expired()


def test_noise_may_be_edited() -> None:
    streams, again = (Streams([generator(0, "sample", 0, 0)]) for _ in range(2))
    streams.normal((4,)).zero_()
    again.normal((4,))
    assert_close(streams.normal((4,)), again.normal((4,)))


class TestPlacedNoise:
    SIDES = 3 * CELL + 5, 2 * CELL + 9

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("box", [(0, 0, 7, 9), (16, 16, 32, 48), (CELL, CELL, CELL, CELL), (40, 3, 61, 70)], ids=str)
    def test_a_window_has_the_noise_of_the_image(self, box: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        top, left, height, width = box
        image = PlacedNoise(3, 1, 2, sides=self.SIDES)
        window = PlacedNoise(3, 1, 2, corner=(top, left), sides=(height, width))
        for lead in ((3,), (), (4, 3), (1,)):
            whole = image.normal((*lead, *self.SIDES), dtype=dtype)
            part = window.normal((*lead, height, width), dtype=dtype)
            assert (part.dtype, whole.shape) == (dtype, (*lead, *self.SIDES))
            assert torch.equal(part, whole[..., top : top + height, left : left + width])

    def test_it_is_standard_normal_and_nothing_repeats(self) -> None:
        sources = [PlacedNoise(seed, item, k, sides=self.SIDES) for seed, item, k in itertools.product((0, 1), repeat=3)]
        noise = torch.stack([source.normal((2, *self.SIDES)) for source in sources for _ in range(3)])
        count = noise.numel()
        assert noise.unique().numel() > 0.9 * count  # float32 has few numbers near the mode
        assert abs(float(noise.mean())) < 5 / count**0.5
        assert abs(float(noise.var()) - 1) < 5 * (2 / count) ** 0.5
        relations = torch.corrcoef(noise.flatten(1)) - torch.eye(len(noise))
        assert relations.abs().max() < 6 / noise[0].numel() ** 0.5
        cells = noise[..., : 3 * CELL, : 2 * CELL].unfold(-2, CELL, CELL).unfold(-2, CELL, CELL).flatten(2, 3).transpose(1, 2)
        relations = torch.corrcoef(cells.flatten(0, 1).flatten(1)) - torch.eye(cells.flatten(0, 1).shape[0])
        assert relations.abs().max() < 6 / cells[0, 0].numel() ** 0.5

    def test_streams_mix_with_it_and_do_not_depend_on_what_was_drawn_ahead(self) -> None:
        small, large = (4, 4), (2 * CELL, 2 * CELL)
        window, image = (Streams([PlacedNoise(0, 0, k, sides=sides) for k in (0, 1)]) for sides in (small, large))
        for event in ((3,), (3,), (5, 3)):  # An event of 48 numbers would be drawn many at a time from a generator.
            a, b = window.normal((*event, *small)), image.normal((*event, *large))
            assert torch.equal(a, b[..., :4, :4])
            assert torch.equal(window.normal((7,)), image.normal((7,)))

    def test_refuses_a_bad_seed(self) -> None:
        with pytest.raises(ValueError, match="non-negative integer"):
            PlacedNoise(-1, 0, 0, sides=(4, 4))


def test_slices_share_noise() -> None:
    streams = Streams([SharedNoise(torch.Generator().manual_seed(seed), (3, 5, 4), 1) for seed in (0, 1)])
    first, flat, second = (streams.normal(event) for event in ((3, 5, 4), (60,), (3, 5, 4)))
    assert torch.equal(first, first[:, :, :1].expand(2, 3, 5, 4))
    assert first.unique().numel() == 2 * 12
    assert flat.unique().numel() == 2 * 60  # noise of another shape
    assert not torch.equal(first, second)
