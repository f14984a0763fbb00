"""Measurements without phase."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import randn
from torch import Tensor
from torch.testing import assert_close

from invdiff.operators import (
    CodedDiffraction,
    Magnitude,
    Operator,
    PhaseRetrieval,
)


def centered_fft(x: Tensor | np.ndarray) -> np.ndarray:
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(np.asarray(x), axes), norm="ortho"), axes)


class TestPhaseRetrieval:
    @pytest.mark.parametrize(("sides", "oversampling"), [((8, 8), 2.0), ((5, 6), 4.0), ((7, 4), 0.0), ((3, 9), 2.7)])
    @pytest.mark.parametrize("power", [1, 2])
    def test_agrees_with_numpy(self, sides: tuple[int, int], oversampling: float, power: int) -> None:
        x = randn(2, 3, *sides)
        margins = [int(oversampling / 8 * side) for side in sides]
        padded = np.pad(x.numpy(), [(0, 0), (0, 0), *((margin, margin) for margin in margins)])
        op = PhaseRetrieval((3, *sides), oversampling=oversampling, power=power)
        assert_close(op(x), torch.from_numpy(np.abs(centered_fft(padded)) ** power))

    def test_sides_are_those_of_dps(self) -> None:
        assert PhaseRetrieval((3, 256, 256), oversampling=2.0).out_shape == (3, 384, 384)

    def test_what_it_cannot_tell(self) -> None:
        op, x = PhaseRetrieval((1, 6, 8), oversampling=4.0), randn(1, 1, 6, 8)
        x[..., 0] = 0
        for other in (-x, x.flip((-2, -1)), x.roll(-1, -1)):
            assert_close(op(other), op(x))
        assert not torch.allclose(op(x.flip(-1)), op(x))
        assert_close((op(x) ** 2).sum(), (x**2).sum())

    @pytest.mark.parametrize("oversampling", [-1.0, math.nan])
    def test_rejects_oversampling(self, oversampling: float) -> None:
        with pytest.raises(ValueError, match="oversampling must be a finite number of at least 0"):
            PhaseRetrieval((1, 6, 8), oversampling=oversampling)


class TestCodedDiffraction:
    @pytest.mark.parametrize("sides", [(4, 6), (5, 7)])
    @pytest.mark.parametrize("power", [1, 2])
    def test_agrees_with_numpy(self, sides: tuple[int, int], power: int) -> None:
        x, masks = randn(2, 3, *sides), torch.complex(randn(2, *sides, seed=1), randn(2, *sides, seed=2))
        expected = np.abs(centered_fft(masks.numpy()[:, None] * x.numpy()[:, None])) ** power
        assert_close(CodedDiffraction((3, *sides), masks, power=power)(x), torch.from_numpy(expected))
        assert_close(CodedDiffraction((3, *sides), masks.numpy(), power=power)(x), torch.from_numpy(expected))

    def test_random_masks(self) -> None:
        op = CodedDiffraction.random((1, 16, 16), 4, seed=0)
        assert_close(op.masks.abs(), torch.ones(4, 16, 16, dtype=torch.float64))
        assert op.masks.mean().abs() < 0.1
        assert torch.equal(op.masks, CodedDiffraction.random((1, 16, 16), 4, seed=0).masks)
        assert not torch.equal(op.masks, CodedDiffraction.random((1, 16, 16), 4, seed=1).masks)

    def test_tells_half_turns_apart(self) -> None:
        op, x = CodedDiffraction.random((1, 6, 8), 2, seed=0), randn(1, 1, 6, 8)
        assert not torch.allclose(op(x.flip((-2, -1))), op(x), atol=0.1)

    def test_rejects(self) -> None:
        with pytest.raises(ValueError, match=r"masks must have shape \(K, 4, 6\) for in_shape \(1, 4, 6\), got \(4, 6\)"):
            CodedDiffraction((1, 4, 6), torch.ones(4, 6))
        for masks in (torch.zeros(1, 4, 6), torch.full((1, 4, 6), math.inf)):
            with pytest.raises(ValueError, match="masks must be finite and not 0 everywhere"):
                CodedDiffraction((1, 4, 6), masks)
        with pytest.raises(ValueError, match="count must be a positive number of masks, got 0"):
            CodedDiffraction.random((1, 4, 6), 0, seed=0)


class TestMagnitude:
    def test_by_hand(self) -> None:
        x = torch.tensor([[3.0, -2.0, 0.0]])
        assert Magnitude((3,))(x).tolist() == [[3.0, 2.0, 0.0]]
        assert Magnitude((3,), power=2)(x).tolist() == [[9.0, 4.0, 0.0]]

    @pytest.mark.parametrize(
        "build",
        [
            lambda power: Magnitude((3,), power=power),
            lambda power: PhaseRetrieval((1, 4, 4), oversampling=2.0, power=power),
            lambda power: CodedDiffraction.random((1, 4, 4), 2, seed=0, power=power),
        ],
    )
    def test_rejects_power(self, build: Callable[[Any], Operator]) -> None:
        for power in (0, 3, 1.5):
            with pytest.raises(ValueError, match=rf"power must be 1 \(magnitude\) or 2 \(intensity\), got {power}"):
                build(power)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize(
    "build",
    [
        lambda power: Magnitude((1, 4, 6), power=power),
        lambda power: PhaseRetrieval((1, 4, 6), oversampling=2.0, power=power),
        lambda power: CodedDiffraction.random((1, 4, 6), 2, seed=0, power=power),
    ],
)
class TestGradientAtZero:
    def test_of_nothing_is_zero(self, build: Callable[[int], Operator], power: int) -> None:
        op, x = build(power), torch.zeros(1, 1, 4, 6)
        jacobian = op.jacobian(x)
        assert (jacobian.adjoint(torch.ones(1, *op.out_shape)) == 0).all()
        assert (jacobian(torch.ones_like(x)) == 0).all()

    def test_of_one_dark_frequency_is_finite(self, build: Callable[[int], Operator], power: int) -> None:
        op, x = build(power), torch.ones(1, 1, 4, 6)  # All frequencies but 0 are dark where there are no masks.
        gradient = op.jacobian(x).adjoint(torch.ones(1, *op.out_shape))
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0
