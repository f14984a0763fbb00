"""Masks of boxes, stripes and single pixels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from invdiff.operators import (
    Crop,
    Mask,
    box_mask,
    random_mask,
    stripe_mask,
)


class TestBoxMask:
    def test_by_hand(self) -> None:
        mask = box_mask(4, 5, top=1, left=2, box_height=2, box_width=3)
        expected = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
        assert mask.dtype == torch.bool
        assert torch.equal(mask, expected.bool())
        assert Mask(mask, (3, 4, 5)).dof == 3 * 14

    @pytest.mark.parametrize("window", [(-1, 0, 2, 2), (0, -1, 2, 2), (3, 0, 2, 2), (0, 4, 2, 2), (0, 0, 0, 2), (0, 0, 2, 0)])
    def test_rejects_a_box_beyond_the_image(self, window: tuple[int, int, int, int]) -> None:
        top, left, box_height, box_width = window
        got = rf"got {box_height} x {box_width} pixels from row {top}, column {left} on, for height 4, width 5"
        with pytest.raises(ValueError, match=rf"box_mask: the window must hold a pixel and lie inside the image, {got}"):
            box_mask(4, 5, top=top, left=left, box_height=box_height, box_width=box_width)
        with pytest.raises(ValueError, match=rf"Crop: the window must .*{got}"):
            Crop((3, 4, 5), top=top, left=left, height=box_height, width=box_width)

    def test_rejects_kinds(self) -> None:
        half: Any = 0.5
        with pytest.raises(TypeError, match=r"must be integers, got 0\.5, 0, 1 and 1"):
            box_mask(4, 5, top=half, left=0, box_height=1, box_width=1)
        with pytest.raises(TypeError, match=r"box_mask: height and width must be positive integers, got 0\.5 and 5"):
            box_mask(half, 5, top=0, left=0, box_height=1, box_width=1)
        with pytest.raises(ValueError, match="height and width must be positive integers, got 0 and 5"):
            box_mask(0, 5, top=0, left=0, box_height=1, box_width=1)


class TestRandomMask:
    @pytest.mark.parametrize("missing", [0.0, 0.3, 0.5, 0.92])
    def test_holds_the_share(self, missing: float) -> None:
        mask = random_mask(13, 17, missing=missing, seed=0)
        assert (mask.shape, mask.dtype) == ((13, 17), torch.bool)
        assert int((~mask).sum()) == round(missing * 13 * 17)

    def test_draws_from_its_own_seed(self) -> None:
        before = torch.get_rng_state()
        first = random_mask(16, 16, missing=0.5, seed=0)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(1)
        assert torch.equal(first, random_mask(16, 16, missing=0.5, seed=0))
        assert not torch.equal(first, random_mask(16, 16, missing=0.5, seed=1))

    def test_every_pixel_is_as_likely(self) -> None:
        draws, missing = 2000, 0.3
        share = torch.stack([~random_mask(4, 5, missing=missing, seed=seed) for seed in range(draws)]).double().mean(0)
        assert ((share - missing).abs() < 5 * (missing * (1 - missing) / draws) ** 0.5).all()

    @pytest.mark.parametrize("missing", [-0.1, 1.0, 30, float("nan")])
    def test_rejects_shares(self, missing: float) -> None:
        with pytest.raises(ValueError, match="random_mask: missing must be a fraction of at least 0 and below 1"):
            random_mask(4, 5, missing=missing, seed=0)

    def test_rejects_seeds(self) -> None:
        with pytest.raises(ValueError, match="seed must be a non-negative integer below 2\\^63, got -1"):
            random_mask(4, 5, missing=0.5, seed=-1)
        none: Any = None
        with pytest.raises(TypeError, match="random_mask: seed must be an integer, got None"):
            random_mask(4, 5, missing=0.5, seed=none)


class TestStripeMask:
    def test_by_hand(self) -> None:
        rows = stripe_mask(7, 2, period=3, thickness=1, axis=0)
        assert (~rows[:, 0]).nonzero().flatten().tolist() == [0, 3, 6]
        assert torch.equal(rows[:, 0], rows[:, 1])
        columns = stripe_mask(2, 9, period=4, thickness=2, axis=1, first=3)  # The stripe before it ends at column 0.
        assert (~columns[0]).nonzero().flatten().tolist() == [0, 3, 4, 7, 8]
        assert torch.equal(columns[0], columns[1])
        assert columns.dtype == torch.bool

    def test_axes(self) -> None:
        for axis in (0, 1):
            both = [stripe_mask(6, 8, period=4, thickness=1, axis=which, first=1) for which in (axis, axis - 2)]
            assert torch.equal(*both)
        across = stripe_mask(8, 6, period=4, thickness=1, axis=0, first=1)
        assert torch.equal(across.T, stripe_mask(6, 8, period=4, thickness=1, axis=1, first=1))

    @pytest.mark.parametrize("thickness", [0, 4, -1])
    def test_rejects_thickness(self, thickness: int) -> None:
        with pytest.raises(ValueError, match=f"positive and below period, got thickness={thickness} for period=4"):
            stripe_mask(6, 8, period=4, thickness=thickness, axis=0)

    def test_rejects_axes_and_kinds(self) -> None:
        with pytest.raises(ValueError, match=r"axis must be 0 \(rows are missing\) or 1 \(columns are missing\), got 2"):
            stripe_mask(6, 8, period=4, thickness=1, axis=2)
        half: Any = 2.5
        with pytest.raises(TypeError, match=r"stripe_mask: period must be an integer, got 2\.5"):
            stripe_mask(6, 8, period=half, thickness=1, axis=0)
