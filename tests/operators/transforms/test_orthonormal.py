"""Rows of Hadamard matrices and random convolutions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import scipy.ndimage
import torch
from helpers import norm, randn
from torch.testing import assert_close

from invdiff.operators import (
    Hadamard,
    RandomConvolution,
    walsh_order,
)


class TestHadamard:
    @pytest.mark.parametrize("size", [1, 2, 8, 64, 128, 1024])
    def test_agrees_with_scipy(self, size: int) -> None:
        matrix = torch.from_numpy(scipy.linalg.hadamard(size).astype(float)) / math.sqrt(size)
        x = randn(2, size)
        assert_close(Hadamard((size,), range(size))(x), x @ matrix.T)

    def test_of_many_numbers(self) -> None:
        size, rows = 2**14, [0, 1, 8191, 12345]
        matrix = torch.tensor([[(-1.0) ** (k & j).bit_count() for j in range(size)] for k in rows], dtype=torch.float64)
        x = randn(2, size)
        op = Hadamard((size,), rows)
        assert_close(op(x), x @ matrix.T / 2**7)
        assert_close(op(x.float()).double(), op(x), rtol=0, atol=1e-5)

    def test_per_channel_and_of_the_whole_item(self) -> None:
        x, rows = randn(2, 2, 2, 4), [7, 0, 2]
        small, large = (torch.from_numpy(scipy.linalg.hadamard(n).astype(float)) / math.sqrt(n) for n in (8, 16))
        separate, together = Hadamard((2, 2, 4), rows), Hadamard((2, 2, 4), rows, per_channel=False)
        assert (separate.out_shape, together.out_shape) == ((2, 3), (3,))
        assert_close(separate(x), x.flatten(2) @ small[rows].T)
        assert_close(together(x), x.flatten(1) @ large[rows].T)

    def test_signs(self) -> None:
        x, plain = randn(1, 64), Hadamard((64,), range(64))
        signed = Hadamard((64,), range(64), sign_seed=3)
        ratio = plain.adjoint(signed(x)) / x
        assert_close(ratio.abs(), torch.ones_like(x))
        assert 10 < (ratio < 0).sum() < 54
        assert torch.equal(signed(x), Hadamard((64,), range(64), sign_seed=3)(x))

    def test_random_rows(self) -> None:
        op = Hadamard.random((3, 8, 16), 50, seed=0)
        assert op.out_shape == (3, 50)
        assert (op.keep.diff() > 0).all()
        assert torch.equal(op.keep, Hadamard.random((3, 8, 16), 50, seed=0).keep)
        assert not torch.equal(op.keep, Hadamard.random((3, 8, 16), 50, seed=1).keep)
        y = randn(2, 3, 50)
        assert_close(op(op.adjoint(y)), y)

    def test_order_of_sign_changes(self) -> None:
        rows = scipy.linalg.hadamard(32)[walsh_order(32).numpy()]
        assert (np.diff(rows) != 0).sum(1).tolist() == list(range(32))
        assert walsh_order(1).tolist() == [0]

    def test_coarsest_patterns_of_an_image(self) -> None:
        keep = (walsh_order(4)[:2, None] * 8 + walsh_order(8)[:2]).flatten()
        patterns = Hadamard((1, 4, 8), keep).adjoint(torch.eye(4, dtype=torch.float64).unsqueeze(1)) * math.sqrt(32)
        rows = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64).unsqueeze(1)
        columns = rows.flatten().repeat_interleave(2)
        one = torch.ones(4, 8, dtype=torch.float64)
        assert_close(patterns[:, 0], torch.stack([one, one * columns, one * rows, rows * columns]))

    @pytest.mark.parametrize(("in_shape", "per_channel", "size"), [((3, 5, 8), True, 40), ((3, 8, 8), False, 192)])
    def test_rejects_sizes(self, in_shape: tuple[int, ...], per_channel: bool, size: int) -> None:
        lower = 1 << (size.bit_length() - 1)
        message = f"must be a power of two, got {size} per .*Crop or resize to {lower} or {2 * lower}"
        with pytest.raises(ValueError, match=message):
            Hadamard(in_shape, [0], per_channel=per_channel)

    @pytest.mark.parametrize(
        ("keep", "error", "found"),
        [
            ([], ValueError, "got none"),
            ([0, 8], ValueError, "got 2 values, 2 distinct, from 0 to 8"),
            ([-1], ValueError, "from -1 to -1"),
            (torch.tensor([3, 3]), ValueError, "got 2 values, 1 distinct"),
            ([0.5], TypeError, "a sequence of integers"),
        ],
    )
    def test_rejects_rows(self, keep: Any, error: type[Exception], found: str) -> None:
        with pytest.raises(error, match=f"Hadamard: keep must be .*{found}"):
            Hadamard((8,), keep)

    def test_rejects_count_and_order(self) -> None:
        for count in (0, 9):
            with pytest.raises(ValueError, match=f"count must lie between 1 and 8, the number of rows, got {count}"):
                Hadamard.random((8,), count, seed=0)
        with pytest.raises(ValueError, match="size must be a power of two, got 12"):
            walsh_order(12)


class TestRandomConvolution:
    @pytest.mark.parametrize("shape", [(2, 6, 7), (1, 9, 8)])
    def test_agrees_with_numpy(self, shape: tuple[int, int, int]) -> None:
        channels, height, width = shape
        op, x = RandomConvolution(shape, 20, seed=5), randn(2, *shape)
        point = torch.zeros(1, *shape, dtype=torch.float64)
        point[..., 0, 0] = 1
        response = RandomConvolution(shape, height * width, seed=5)(point)
        spectrum = np.fft.fft2(response[0, 0].reshape(height, width).numpy())
        assert_close(torch.from_numpy(np.abs(spectrum)), torch.ones(height, width, dtype=torch.float64))
        convolved = np.fft.ifft2(spectrum * np.fft.fft2(x.numpy())).real.reshape(2, channels, -1)
        assert_close(op(x), torch.from_numpy(convolved)[..., op.pixels])

    def test_keeps_the_length_where_all_pixels_are_kept(self) -> None:
        x = randn(2, 3, 8, 9)
        assert_close(norm(RandomConvolution((3, 8, 9), 72, seed=0)(x)), norm(x))

    def test_spreads_a_point(self) -> None:
        x = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
        x[0, 0, 3, 4] = 1
        assert RandomConvolution((1, 32, 32), 1024, seed=0)(x).abs().max() < 0.15

    def test_seed(self) -> None:
        x = randn(1, 1, 8, 8)
        assert torch.equal(RandomConvolution((1, 8, 8), 9, seed=1)(x), RandomConvolution((1, 8, 8), 9, seed=1)(x))
        assert not torch.equal(RandomConvolution((1, 8, 8), 9, seed=1)(x), RandomConvolution((1, 8, 8), 9, seed=2)(x))

    @pytest.mark.parametrize("count", [0, 13])
    def test_rejects_count(self, count: int) -> None:
        with pytest.raises(ValueError, match=f"count must lie between 1 and 12, the pixels of a channel, got {count}"):
            RandomConvolution((2, 3, 4), count, seed=0)
