"""Frequencies, orthonormal rows, differences and lost phases, against numpy, scipy and dense matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import scipy.ndimage
import torch
from helpers import norm, randn
from torch import Tensor
from torch.testing import assert_close

from invdiff.linalg import conjugate_gradients, dense_matrix
from invdiff.operators import (
    MRI,
    CodedDiffraction,
    CumulativeSum,
    Downsample,
    FiniteDifferences,
    FourierMask,
    GaussianNoise,
    Hadamard,
    LinearOperator,
    Magnitude,
    Operator,
    PhaseRetrieval,
    RandomConvolution,
    SubsampledConvolution,
    birdcage_maps,
    cartesian_mask,
    walsh_order,
)
from invdiff.operators.transforms.second_differences import CosineTransform

SCIPY_MODES = {"circular": "wrap", "reflect": "mirror", "zero": "constant"}


def matrix_of(op: LinearOperator) -> Tensor:
    return dense_matrix(op.forward, op.in_shape, dtype=torch.float64, device=torch.device("cpu"))


def solve_densely(op: LinearOperator, v: Tensor, lam: float) -> Tensor:
    matrix = matrix_of(op)
    gram = matrix @ matrix.T + lam * torch.eye(len(matrix), dtype=torch.float64)
    return torch.linalg.solve(gram, v.flatten(1).T).T.reshape(v.shape)


def pinv_densely(op: LinearOperator, y: Tensor) -> Tensor:
    return (y.flatten(1) @ torch.linalg.pinv(matrix_of(op)).T).reshape(-1, *op.in_shape)


def centred_fft(x: Tensor | np.ndarray) -> np.ndarray:
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(np.asarray(x), axes), norm="ortho"), axes)


def as_real(z: np.ndarray) -> Tensor:
    return torch.view_as_real(torch.from_numpy(np.ascontiguousarray(z)))


@pytest.mark.parametrize(
    "op",
    [
        Hadamard.random((2, 64, 128), 100, seed=0),
        RandomConvolution((2, 65, 90), 100, seed=0),
        FourierMask((2, 65, 90), torch.arange(90) % 3 == 0),
        MRI((2, 65, 90), torch.arange(90) % 3 == 0),
        MRI((2, 65, 90), torch.ones(90), coil_maps=birdcage_maps(2, 65, 90)),
        FiniteDifferences((2, 65, 90), boundary="circular"),
        FiniteDifferences((2, 65, 90), boundary="zero"),
        CumulativeSum((2, 65, 90), -1),
    ],
    ids=lambda op: type(op).__name__,
)
def test_structure_gives_a_decomposition_at_any_size(op: LinearOperator) -> None:
    svd, x, y = op.svd, randn(2, *op.in_shape), randn(2, *op.out_shape, seed=1)
    assert svd is not None
    assert_close(svd.measured(op(x)), svd.singular * svd.analyse(x), rtol=0, atol=1e-11)
    assert_close(svd.synthesise(svd.singular * svd.measured(y)), op.adjoint(y), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "build",
    [
        lambda **k: Hadamard((4,), [0], **k),
        lambda **k: Hadamard.random((4,), 1, seed=0, **k),
        lambda **k: RandomConvolution((1, 2, 2), 1, seed=0, **k),
        lambda **k: FourierMask((1, 2, 2), torch.ones(2), **k),
        lambda **k: MRI((2, 2, 2), torch.ones(2), **k),
        lambda **k: FiniteDifferences((1, 2, 2), **k),
        lambda **k: CumulativeSum((2,), 0, **k),
        lambda **k: SubsampledConvolution((1, 2), torch.ones(1), stride=1, boundary="zero", **k),
        lambda **k: PhaseRetrieval((1, 2, 2), oversampling=2.0, **k),
        lambda **k: CodedDiffraction((1, 2, 2), torch.ones(1, 2, 2), **k),
        lambda **k: CodedDiffraction.random((1, 2, 2), 1, seed=0, **k),
        lambda **k: Magnitude((2,), **k),
    ],
)
def test_takes_a_noise_model(build: Callable[..., Operator]) -> None:
    assert build(sigma_y=0.2).sigma_y == 0.2
    assert build(noise=GaussianNoise(0.3)).sigma_y == 0.3


@pytest.mark.parametrize(
    "build",
    [
        lambda seed: Hadamard((4,), [0], sign_seed=seed),
        lambda seed: Hadamard.random((4,), 1, seed=seed),
        lambda seed: RandomConvolution((1, 2, 2), 1, seed=seed),
        lambda seed: CodedDiffraction.random((1, 2, 2), 1, seed=seed),
        lambda seed: cartesian_mask(2, 2, acceleration=1, centre_fraction=0.5, seed=seed),
    ],
)
def test_rejects_seed(build: Callable[[Any], object]) -> None:
    with pytest.raises(ValueError, match="seed must be a non-negative integer below 2\\^63, got -1"):
        build(-1)
    with pytest.raises(TypeError, match=r"seed must be an integer, got 0\.5"):
        build(0.5)


@pytest.mark.parametrize("rho", [1e-8, 1e-3])
@pytest.mark.parametrize(
    "op",
    [
        FourierMask((1, 32, 33), torch.ones(33)),
        MRI((2, 32, 32), torch.ones(32), coil_maps=birdcage_maps(4, 32, 32)),
        *(FiniteDifferences((1, 32, 32), boundary=boundary) for boundary in ("circular", "replicate", "zero")),
    ],
    ids=["pairs", "coils", "circular", "replicate", "zero"],
)
class TestHardlyAnyNoise:
    """Where there are more measurements than unknowns, what no image explains weighs 1 / rho in ``solve``."""

    def test_prox_in_float32(self, op: LinearOperator, rho: float) -> None:
        z, y = randn(2, *op.in_shape), randn(2, *op.out_shape, seed=1)
        expected = op.prox(z, y, rho)
        assert_close(LinearOperator.prox(op, z, y, rho), expected, rtol=0, atol=1e-5)
        assert_close(op.prox(z.float(), y.float(), rho).double(), expected, rtol=0, atol=1e-4)

    def test_prox_per_item(self, op: LinearOperator, rho: float) -> None:
        z, y, per_item = randn(2, *op.in_shape), randn(2, *op.out_shape, seed=1), torch.tensor([rho, 0.5])
        together = op.prox(z, y, per_item.double().reshape(2, 1, 1, 1))
        assert_close(together[:1], op.prox(z[:1], y[:1], rho), rtol=0, atol=1e-6)
        assert_close(together[1:], op.prox(z[1:], y[1:], 0.5))


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
        message = f"a power of two of numbers, got {size} per .*Crop or resize to {lower} or {2 * lower}"
        with pytest.raises(ValueError, match=message):
            Hadamard(in_shape, [0], per_channel=per_channel)

    @pytest.mark.parametrize(
        ("keep", "error", "found"),
        [
            ([], ValueError, "got none"),
            ([0, 8], ValueError, "got 2 of them, 2 distinct, from 0 to 8"),
            ([-1], ValueError, "from -1 to -1"),
            (torch.tensor([3, 3]), ValueError, "got 2 of them, 1 distinct"),
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


class TestFourierMask:
    mask = torch.rand(5, 6, generator=torch.Generator().manual_seed(3)) < 0.5

    @pytest.mark.parametrize("sides", [(5, 6), (6, 5), (4, 6), (7, 5), (1, 4), (3, 1), (2, 2)])
    def test_agrees_with_numpy(self, sides: tuple[int, int]) -> None:
        mask = torch.rand(sides, generator=torch.Generator().manual_seed(0)) < 0.6
        mask[0, 0] = True
        x = randn(2, 3, *sides)
        assert_close(FourierMask((3, *sides), mask)(x), as_real(centred_fft(x) * mask.numpy()))

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
        assert_close(MRI((2, 5, 6), mask)(x), as_real(centred_fft(image) * mask.numpy()))
        expected = as_real(centred_fft(maps.numpy() * image) * mask.numpy())
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
        mask = cartesian_mask(16, 16, acceleration=2, centre_fraction=0.1, seed=0)
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
        mask = cartesian_mask(7, width, acceleration=acceleration, centre_fraction=fraction, seed=0)
        assert (mask.shape, mask.dtype) == ((7, width), torch.bool)
        assert (mask == mask[0]).all()
        assert mask[0].sum() == round(width / acceleration)
        centre = round(width * fraction)
        first = (width - centre + 1) // 2
        assert mask[0, first : first + centre].all()
        assert centre == 0 or first <= width // 2 < first + centre  # Frequency 0 among them.

    def test_columns_are_drawn_evenly(self) -> None:
        masks = [cartesian_mask(1, 12, acceleration=3, centre_fraction=1 / 6, seed=seed) for seed in range(400)]
        share = torch.cat(masks).double().mean(0)
        assert share[[5, 6]].eq(1).all()
        assert (share[[0, 1, 2, 3, 4, 7, 8, 9, 10, 11]] - 0.2).abs().max() < 0.1  # Five standard errors.
        assert torch.equal(masks[3], cartesian_mask(1, 12, acceleration=3, centre_fraction=1 / 6, seed=3))

    def test_rejects(self) -> None:
        with pytest.raises(ValueError, match=r"acceleration must be at least 1, got 0\.5"):
            cartesian_mask(8, 8, acceleration=0.5, centre_fraction=0.1, seed=0)
        with pytest.raises(ValueError, match=r"leaves 2 of 8 columns, and centre_fraction=0\.5 asks for 4"):
            cartesian_mask(8, 8, acceleration=4, centre_fraction=0.5, seed=0)
        with pytest.raises(ValueError, match="leaves 0 of 8 columns"):
            cartesian_mask(8, 8, acceleration=40, centre_fraction=0.0, seed=0)
        with pytest.raises(ValueError, match="height and width must be positive, got 0 and 8"):
            cartesian_mask(0, 8, acceleration=2, centre_fraction=0.1, seed=0)


class TestBirdcageMaps:
    def test_is_normalised(self) -> None:
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


class TestFiniteDifferences:
    @pytest.mark.parametrize(("boundary", "last"), [("circular", -8.0), ("replicate", 0.0), ("zero", -9.0)])
    def test_by_hand(self, boundary: str, last: float) -> None:
        y = FiniteDifferences((3,), axes=[0], boundary=boundary)(torch.tensor([[1.0, 4.0, 9.0]]))
        assert y.tolist() == [[[3.0, 5.0, last]]]

    def test_agrees_with_numpy(self) -> None:
        x = randn(2, 3, 4, 5)
        for axes in [(0, 1, 2), (-1,), (1, 0)]:
            op = FiniteDifferences((3, 4, 5), axes=axes, boundary="circular")
            parts = [np.diff(x.numpy(), axis=axis % 3 + 1, append=np.take(x.numpy(), [0], axis=axis % 3 + 1)) for axis in axes]
            assert_close(op(x), torch.from_numpy(np.stack(parts, 1)))

    @pytest.mark.parametrize("lam", [1e-3, 0.7])
    @pytest.mark.parametrize("boundary", ["circular", "replicate", "zero"])
    def test_solves_what_the_matrix_gives(self, boundary: str, lam: float) -> None:
        op = FiniteDifferences((2, 5, 6), boundary=boundary)
        v = randn(2, *op.out_shape)
        assert_close(op.solve(v, lam), solve_densely(op, v, lam), rtol=1e-9, atol=1e-9)
        assert_close(op.pinv(v), pinv_densely(op, v), rtol=0, atol=1e-11)

    def test_last_differences_are_not_measured(self) -> None:
        op = FiniteDifferences((2, 4, 5), boundary="replicate", sigma_y=0.5)
        y = op.measure(randn(1, 2, 4, 5), seed=0)
        assert (y[:, 0, :, -1] == 0).all()
        assert (y[:, 1, :, :, -1] == 0).all()
        assert ((y != 0).sum(), op.dof) == (op.dof, 2 * (3 * 5 + 4 * 4))
        holes = y.clone()
        holes[:, 0, :, -1] = math.nan
        assert torch.equal(op.adjoint(holes), op.adjoint(y))

    def test_rejects(self) -> None:
        with pytest.raises(ValueError, match="unknown boundary 'reflect', expected one of circular, replicate, zero"):
            FiniteDifferences((2, 4, 5), boundary="reflect")
        for axes in ((3,), ()):
            with pytest.raises(ValueError, match=r"axes must be axes of in_shape \(2, 4, 5\)"):
                FiniteDifferences((2, 4, 5), axes=axes)
        with pytest.raises(ValueError, match=r"must be distinct and of length 2 at least, got \(1, -2\)"):
            FiniteDifferences((2, 4, 5), axes=(1, -2))
        with pytest.raises(ValueError, match=r"must be distinct and of length 2 at least, got \(0,\)"):
            FiniteDifferences((1, 4, 5), axes=(0,))


class TestCosineTransform:
    @pytest.mark.parametrize("side", [1, 2, 7, 8])
    def test_agrees_with_scipy(self, side: int) -> None:
        x = randn(3, side, 2)
        expected = torch.from_numpy(scipy.fft.dct(x.numpy(), axis=1, norm="ortho"))
        assert_close(CosineTransform(side, ends=False).analyse(x, 1), expected)

    @pytest.mark.parametrize("side", [1, 2, 7, 8])
    @pytest.mark.parametrize("ends", [False, True])
    def test_gives_eigenvectors_of_second_differences(self, side: int, ends: bool) -> None:
        differences = torch.eye(side, dtype=torch.float64) - torch.eye(side + 1, dtype=torch.float64)[1:, :side]
        differences = differences if ends else differences[:-1]  # The last row is x_{n-1} - x_n.
        cosines = CosineTransform(side, ends=ends)
        vectors = cosines.synthesise(torch.eye(side, dtype=torch.float64), -1)
        found = vectors @ differences.T @ differences @ vectors.T
        assert_close(vectors @ vectors.T, torch.eye(side, dtype=torch.float64))
        assert_close(found, torch.diag(cosines.eigenvalues), rtol=0, atol=1e-13)


class TestCumulativeSum:
    @pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
    def test_agrees_with_numpy(self, axis: int) -> None:
        x = randn(2, 3, 4, 5)
        op = CumulativeSum((3, 4, 5), axis)
        assert_close(op(x), torch.from_numpy(np.cumsum(x.numpy(), axis=axis % 3 + 1)))
        assert_close(op.pinv(op(x)), x)

    @pytest.mark.parametrize("lam", [0.0, 1e-3, 1.0, 1e5])
    def test_solves_what_the_matrix_gives(self, lam: float) -> None:
        op, v = CumulativeSum((40,), 0), randn(2, 40)
        expected = solve_densely(op, v, lam)
        assert_close(op.solve(v, lam), expected, rtol=0, atol=1e-12 * float(expected.abs().max()))
        assert_close(op.solve(v.float(), lam).double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))

    @pytest.mark.parametrize("axis", [3, -4])
    def test_rejects_axis(self, axis: int) -> None:
        with pytest.raises(ValueError, match=rf"there is no axis {axis} in in_shape \(3, 4, 5\)"):
            CumulativeSum((3, 4, 5), axis)


class TestSubsampledConvolution:
    @pytest.mark.parametrize("boundary", ["circular", "reflect", "zero"])
    @pytest.mark.parametrize(
        ("sides", "size", "stride"),
        [
            ((12,), (5,), 1),
            ((12,), (4,), 3),
            ((12,), (12,), 2),
            ((6, 8), (3, 4), 2),
            ((6, 8), (5, 7), (2, 1)),
            ((6, 8), (1, 1), (3, 8)),
            ((4, 6, 8), (2, 3, 1), 2),
            ((4, 3, 6), (3, 3, 5), 1),
        ],
    )
    def test_agrees_with_scipy(self, boundary: str, sides: tuple[int, ...], size: tuple[int, ...], stride: Any) -> None:
        kernel, x = randn(*size), randn(2, 3, *sides)
        op = SubsampledConvolution((3, *sides), kernel, stride=stride, boundary=boundary)
        mode = cast(Any, SCIPY_MODES[boundary])
        full = scipy.ndimage.convolve(x.numpy(), kernel.numpy().reshape(1, 1, *size), mode=mode)
        steps = stride if isinstance(stride, tuple) else (stride,) * len(sides)
        expected = torch.from_numpy(full[(..., *(slice(None, None, step) for step in steps))].copy())
        assert_close(op(x), expected)
        v = randn(2, *op.out_shape, seed=1)
        assert_close((expected * v).sum(), (x * op.adjoint(v)).sum())

    @pytest.mark.parametrize(("boundary", "side"), [("reflect", 10), ("zero", 11)])
    def test_strides_need_not_divide(self, boundary: str, side: int) -> None:
        x, kernel = randn(1, 1, side), randn(4)
        op = SubsampledConvolution((1, side), kernel, stride=4, boundary=boundary)
        full = scipy.ndimage.convolve1d(x.numpy(), kernel.numpy(), mode=cast(Any, SCIPY_MODES[boundary]))
        assert op.out_shape == (1, 3)
        assert_close(op(x), torch.from_numpy(full[..., ::4].copy()))

    def test_mean_over_blocks(self) -> None:
        op = SubsampledConvolution((3, 6, 8), torch.full((2, 2), 0.25), stride=2, boundary="circular")
        means, x, y = Downsample((3, 6, 8), 2), randn(2, 3, 6, 8), randn(2, 3, 3, 4)
        assert_close(op(x), means(x))
        assert_close(op.pinv(y), means.pinv(y))
        assert_close(op.solve(y, 0.1), means.solve(y, 0.1))

    @pytest.mark.parametrize(("sides", "stride"), [((12,), 3), ((6, 8), (2, 4)), ((4, 3, 6), (2, 1, 3)), ((6, 8), 1)])
    def test_solves_what_the_matrix_gives(self, sides: tuple[int, ...], stride: Any) -> None:
        kernel = randn(*(3,) * len(sides)).abs()
        op = SubsampledConvolution((2, *sides), kernel, stride=stride, boundary="circular")
        v = randn(2, *op.out_shape)
        for lam in (1e-2, 1.0):
            assert_close(op.solve(v, lam), solve_densely(op, v, lam), rtol=1e-9, atol=1e-9)
        assert_close(op.pinv(v), pinv_densely(op, v), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("boundary", ["reflect", "zero"])
    def test_solves_in_fewer_products_than_without_a_preconditioner(self, boundary: str) -> None:
        kernel = randn(7, 7).abs()
        op = SubsampledConvolution((1, 60, 60), kernel / kernel.sum(), stride=2, boundary=boundary)
        v, lam, products = randn(1, *op.out_shape), 1e-3, [0, 0]

        def counted(which: int, w: Tensor) -> Tensor:
            products[which] += 1
            return SubsampledConvolution.adjoint(op, w)

        vars(op)["adjoint"] = lambda w: counted(0, w)
        solved = op.solve(v, lam)
        plain = conjugate_gradients(lambda w: op.forward(counted(1, w)) + lam * w, v, rtol=1e-12)
        assert_close(solved, plain, rtol=0, atol=1e-8)
        assert products[0] < 0.7 * products[1], products

    @pytest.mark.parametrize(
        ("kernel", "options", "error", "message"),
        [
            (torch.ones(3), {}, ValueError, r"must have 2 axes.* got shape \(3,\) for \(6, 8\)"),
            (torch.ones(7, 3), {}, ValueError, r"got shape \(7, 3\) for \(6, 8\). Crop the kernel"),
            (torch.zeros(2, 2), {}, ValueError, "the kernel is 0 everywhere"),
            (torch.ones(2, 2) * 1j, {}, TypeError, "kernel must be real"),
            (torch.ones(2, 2), {"stride": 0}, ValueError, "stride must be a positive integer or 2 of them"),
            (torch.ones(2, 2), {"stride": (1, 2, 3)}, ValueError, r"got \(1, 2, 3\)"),
            (torch.ones(2, 2), {"stride": 1.5}, TypeError, r"stride must be an integer or one for each axis, got 1\.5"),
            (torch.ones(2, 2), {"stride": 4}, ValueError, r"must divide its side, got stride \(4, 4\) for \(6, 8\)"),
            (torch.ones(2, 2), {"boundary": "wrap"}, ValueError, "expected one of circular, reflect, zero"),
        ],
    )
    def test_rejects(self, kernel: Tensor, options: dict[str, Any], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            SubsampledConvolution((3, 6, 8), kernel, **{"stride": 2, "boundary": "circular", **options})

    def test_rejects_shape(self) -> None:
        with pytest.raises(ValueError, match=r"in_shape must be \(C, L\), \(C, H, W\) or \(C, D, H, W\)"):
            SubsampledConvolution((3,), torch.ones(1), stride=1, boundary="zero")


class TestPhaseRetrieval:
    @pytest.mark.parametrize(("sides", "oversampling"), [((8, 8), 2.0), ((5, 6), 4.0), ((7, 4), 0.0), ((3, 9), 2.7)])
    @pytest.mark.parametrize("power", [1, 2])
    def test_agrees_with_numpy(self, sides: tuple[int, int], oversampling: float, power: int) -> None:
        x = randn(2, 3, *sides)
        margins = [int(oversampling / 8 * side) for side in sides]
        padded = np.pad(x.numpy(), [(0, 0), (0, 0), *((margin, margin) for margin in margins)])
        op = PhaseRetrieval((3, *sides), oversampling=oversampling, power=power)
        assert_close(op(x), torch.from_numpy(np.abs(centred_fft(padded)) ** power))

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
        expected = np.abs(centred_fft(masks.numpy()[:, None] * x.numpy()[:, None])) ** power
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
