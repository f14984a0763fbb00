"""Fourier coefficients: masks in k-space, coils."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import randn
from torch import Tensor
from torch.testing import assert_close

from invdiff.linalg import conjugate_gradients, dense_matrix
from invdiff.operators import (
    MRI,
    FourierMask,
    LinearOperator,
    birdcage_maps,
    cartesian_mask,
)


def matrix_of(op: LinearOperator) -> Tensor:
    return dense_matrix(op.forward, op.in_shape, dtype=torch.float64, device=torch.device("cpu"))


def solve_densely(op: LinearOperator, v: Tensor, lam: float) -> Tensor:
    matrix = matrix_of(op)
    gram = matrix @ matrix.T + lam * torch.eye(len(matrix), dtype=torch.float64)
    return torch.linalg.solve(gram, v.flatten(1).T).T.reshape(v.shape)


def pinv_densely(op: LinearOperator, y: Tensor) -> Tensor:
    return (y.flatten(1) @ torch.linalg.pinv(matrix_of(op)).T).reshape(-1, *op.in_shape)


def centered_fft(x: Tensor | np.ndarray) -> np.ndarray:
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(np.asarray(x), axes), norm="ortho"), axes)


def as_real(z: np.ndarray) -> Tensor:
    return torch.view_as_real(torch.from_numpy(np.ascontiguousarray(z)))


class TestFourierMask:
    mask = torch.rand(5, 6, generator=torch.Generator().manual_seed(3)) < 0.5

    @pytest.mark.parametrize("sides", [(5, 6), (6, 5), (4, 6), (7, 5), (1, 4), (3, 1), (2, 2)])
    def test_agrees_with_numpy(self, sides: tuple[int, int]) -> None:
        mask = torch.rand(sides, generator=torch.Generator().manual_seed(0)) < 0.6
        mask[0, 0] = True
        x = randn(2, 3, *sides)
        assert_close(FourierMask((3, *sides), mask)(x), as_real(centered_fft(x) * mask.numpy()))

    def test_frequency_zero_is_in_the_middle(self) -> None:
        y = FourierMask((1, 5, 6), torch.ones(6))(torch.ones(1, 1, 5, 6))
        assert y.abs().flatten().argmax() == (2 * 6 + 3) * 2
        assert_close(y[0, 0, 2, 3], torch.tensor([math.sqrt(30), 0.0]))

    @pytest.mark.parametrize("lam", [1e-3, 0.7])
    @pytest.mark.parametrize("sides", [(5, 6), (6, 8), (5, 7)])
    def test_solves_what_the_matrix_gives(self, sides: tuple[int, int], lam: float) -> None:
        op = FourierMask((1, *sides), torch.rand(sides, generator=torch.Generator().manual_seed(1)) < 0.6)
        v = randn(2, *op.out_shape)
        assert_close(op.solve(v, lam), solve_densely(op, v, lam), rtol=1e-9, atol=1e-9)
        assert_close(op.pinv(v), pinv_densely(op, v), rtol=0, atol=1e-12)

    def test_singular_values(self) -> None:
        mask = torch.zeros(5, 5)
        mask[2, 2] = mask[0, 1] = mask[3, 3] = mask[1, 1] = 1  # Its own mirror image, one of a pair, and both of another.
        svd = FourierMask((1, 5, 5), mask).svd
        assert svd is not None
        values = svd.singular.flatten().sort(descending=True).values[:6]
        assert_close(values, torch.tensor([1, 1, 1, 0.5**0.5, 0.5**0.5, 0], dtype=torch.float64))

    def test_averages_what_is_measured_twice(self) -> None:
        op, x = FourierMask((1, 6, 6), torch.ones(6), sigma_y=0.1), randn(200, 1, 6, 6)
        noise = op.pinv(op.measure(x, seed=0)) - x
        # 72 numbers for 36 unknowns. The deviation is sigma: each frequency is halved in variance, and is complex.
        assert abs(float(noise.std()) - 0.1) < 0.004
        assert op.dof == 72

    def test_noise_is_where_it_is_measured(self) -> None:
        op = FourierMask((2, 5, 6), self.mask, sigma_y=0.5)
        y = op.measure(randn(1, 2, 5, 6), seed=0)
        assert (y[:, :, ~self.mask] == 0).all()
        assert ((y != 0).sum(), op.dof) == (op.dof, 4 * int(self.mask.sum()))

    def test_ignores_what_is_missing(self) -> None:
        op, y = FourierMask((2, 5, 6), self.mask), randn(1, 2, 5, 6, 2)
        holes = torch.where(self.mask.unsqueeze(-1), y, math.nan)
        for function in (op.adjoint, op.pinv, op.keep_measured):
            assert torch.equal(function(holes), function(op.keep_measured(y)))

    def test_is_what_one_coil_sees_of_a_real_image(self) -> None:
        x = randn(2, 1, 5, 6)
        seen = MRI((2, 5, 6), self.mask)(torch.cat([x, torch.zeros_like(x)], 1))
        assert_close(FourierMask((1, 5, 6), self.mask)(x), seen)

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (torch.zeros(4, 4), "every entry is missing"),
            (torch.full((4, 4), 2), "got also 2"),
            (torch.ones(3), r"shape \(3,\) does not broadcast to in_shape \(4, 4\)"),
        ],
    )
    def test_rejects_mask(self, mask: Tensor, message: str) -> None:
        for build in (lambda: FourierMask((1, 4, 4), mask), lambda: MRI((2, 4, 4), mask)):
            with pytest.raises(ValueError, match=message):
                build()


class TestMRI:
    def test_agrees_with_numpy(self) -> None:
        maps, mask = birdcage_maps(3, 5, 6), torch.rand(5, 6, generator=torch.Generator().manual_seed(0)) < 0.5
        x = randn(2, 2, 5, 6)
        image = (x[:, :1] + 1j * x[:, 1:]).numpy()
        assert_close(MRI((2, 5, 6), mask)(x), as_real(centered_fft(image) * mask.numpy()))
        expected = as_real(centered_fft(maps.numpy() * image) * mask.numpy())
        assert_close(MRI((2, 5, 6), mask, coil_maps=maps)(x), expected)
        assert_close(MRI((2, 5, 6), mask, coil_maps=maps.numpy())(x), expected)

    @pytest.mark.parametrize("lam", [1e-3, 0.7])
    @pytest.mark.parametrize("fraction", [0.5, 1.0])
    @pytest.mark.parametrize("coils", [None, 2, 8])
    def test_solves_what_the_matrix_gives(self, coils: int | None, fraction: float, lam: float) -> None:
        mask = torch.rand(6, 8, generator=torch.Generator().manual_seed(0)) < fraction
        maps = None if coils is None else birdcage_maps(coils, 6, 8) * torch.linspace(0.5, 2, 8)
        op = MRI((2, 6, 8), mask, coil_maps=maps)
        assert op.closed_form == (coils is None or fraction == 1)
        v = randn(2, *op.out_shape)
        assert_close(op.solve(v, lam), solve_densely(op, v, lam), rtol=1e-8, atol=1e-8)
        assert_close(op.pinv(v), pinv_densely(op, v), rtol=0, atol=1e-9)

    def test_coils_tell_apart_what_folds(self) -> None:
        # Every other column: pixels half an image apart fold into one, and two coils are enough to part them.
        op = MRI((2, 6, 8), torch.arange(8) % 2 == 0, coil_maps=birdcage_maps(3, 6, 8))
        x = randn(2, 2, 6, 8)
        assert_close(op.pinv(op(x)), x, rtol=0, atol=1e-9)
        assert not torch.allclose(MRI((2, 6, 8), torch.arange(8) % 2 == 0).pinv(op(x)[:, :1]), x, atol=0.1)

    def test_solves_in_fewer_products_than_without_a_preconditioner(self) -> None:
        mask = cartesian_mask(16, 16, acceleration=2, center_fraction=0.1, seed=0)
        op, products, lam = MRI((2, 16, 16), mask, coil_maps=birdcage_maps(4, 16, 16)), [0, 0], 1e-2
        v = op.keep_measured(randn(1, *op.out_shape))

        def counted(which: int, w: Tensor) -> Tensor:
            products[which] += 1
            return MRI.adjoint(op, w)

        vars(op)["adjoint"] = lambda w: counted(0, w)
        solved = op.solve(v, lam)
        plain = conjugate_gradients(lambda w: op.forward(counted(1, w)) + lam * w, v, rtol=1e-12)
        assert_close(solved, plain, rtol=0, atol=1e-8)
        assert products[0] < 0.7 * products[1], products

    def test_noise_is_where_it_is_measured(self) -> None:
        mask = torch.arange(6) % 2 == 0
        op = MRI((2, 4, 6), mask, coil_maps=birdcage_maps(3, 4, 6), sigma_y=0.5)
        y = op.measure(randn(1, 2, 4, 6), seed=0)
        assert ((y != 0).sum(), op.dof) == (72, 72)
        holes = torch.where(mask.unsqueeze(-1), y, math.nan)
        assert torch.equal(op.adjoint(holes), op.adjoint(y))

    @pytest.mark.parametrize(
        ("maps", "message"),
        [
            (torch.ones(4, 6), r"shape \(coils, 4, 6\) for this image, got \(4, 6\)"),
            (torch.ones(2, 6, 4), r"got \(2, 6, 4\)"),
            (torch.ones(0, 4, 6), r"got \(0, 4, 6\)"),
            (torch.full((1, 4, 6), math.nan), "must be finite and not 0 everywhere"),
            (torch.zeros(1, 4, 6), "must be finite and not 0 everywhere"),
        ],
    )
    def test_rejects_maps(self, maps: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            MRI((2, 4, 6), torch.ones(6), coil_maps=maps)

    def test_rejects_channels(self) -> None:
        with pytest.raises(ValueError, match=r"in_shape must be \(2, H, W\), real and imaginary part, got \(1, 4, 6\)"):
            MRI((1, 4, 6), torch.ones(6))


class TestCartesianMask:
    @pytest.mark.parametrize(("width", "acceleration", "fraction"), [(64, 4, 0.08), (65, 8, 0.04), (9, 1, 0.5), (10, 2.5, 0.0)])
    def test_measures_whole_columns(self, width: int, acceleration: float, fraction: float) -> None:
        mask = cartesian_mask(7, width, acceleration=acceleration, center_fraction=fraction, seed=0)
        assert (mask.shape, mask.dtype) == ((7, width), torch.bool)
        assert (mask == mask[0]).all()
        assert mask[0].sum() == round(width / acceleration)
        center = round(width * fraction)
        first = (width - center + 1) // 2
        assert mask[0, first : first + center].all()
        assert center == 0 or first <= width // 2 < first + center  # Frequency 0 among them.

    def test_columns_are_drawn_evenly(self) -> None:
        masks = [cartesian_mask(1, 12, acceleration=3, center_fraction=1 / 6, seed=seed) for seed in range(400)]
        share = torch.cat(masks).double().mean(0)
        assert share[[5, 6]].eq(1).all()
        assert (share[[0, 1, 2, 3, 4, 7, 8, 9, 10, 11]] - 0.2).abs().max() < 0.1  # Five standard errors.
        assert torch.equal(masks[3], cartesian_mask(1, 12, acceleration=3, center_fraction=1 / 6, seed=3))

    def test_rejects(self) -> None:
        with pytest.raises(ValueError, match=r"acceleration must be at least 1, got 0\.5"):
            cartesian_mask(8, 8, acceleration=0.5, center_fraction=0.1, seed=0)
        with pytest.raises(ValueError, match=r"leaves 2 of 8 columns, and center_fraction=0\.5 asks for 4"):
            cartesian_mask(8, 8, acceleration=4, center_fraction=0.5, seed=0)
        with pytest.raises(ValueError, match="leaves 0 of 8 columns"):
            cartesian_mask(8, 8, acceleration=40, center_fraction=0.0, seed=0)
        with pytest.raises(ValueError, match="height and width must be positive, got 0 and 8"):
            cartesian_mask(0, 8, acceleration=2, center_fraction=0.1, seed=0)


class TestBirdcageMaps:
    def test_is_normalized(self) -> None:
        maps = birdcage_maps(5, 9, 14)
        assert (maps.shape, maps.dtype) == ((5, 9, 14), torch.complex128)
        assert_close((maps.abs() ** 2).sum(0), torch.ones(9, 14, dtype=torch.float64))

    def test_coils_are_each_other_turned(self) -> None:
        maps = birdcage_maps(4, 10, 10)
        for c in range(4):  # A quarter from the columns' axis to that of the rows, which points down.
            assert_close(maps[(c + 1) % 4], torch.rot90(maps[c], -1))

    def test_by_hand(self) -> None:
        maps = birdcage_maps(2, 1, 3, radius=2.0)  # Pixels at -2/3, 0 and 2/3, wires at 2 and -2.
        right, left = 2 / (2 - 2 / 3), 2 / (2 + 2 / 3)
        expected = torch.tensor([right, left], dtype=torch.float64) / math.hypot(right, left)
        assert_close(maps[:, 0, 2], expected.to(torch.complex128))
        assert_close(maps[:, 0, 1], torch.full((2,), 0.5**0.5, dtype=torch.complex128))

    def test_rejects(self) -> None:
        with pytest.raises(ValueError, match=r"must lie outside the image, whose corners are at 1\.24 half sides"):
            birdcage_maps(4, 8, 8, radius=1.2)
        with pytest.raises(ValueError, match="must be positive, got 0, 8 and 8"):
            birdcage_maps(0, 8, 8)
