"""JPEG, clipping, rounding, gamma and networks."""

from __future__ import annotations

import copy
import io
import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers import norm, randn
from PIL import Image
from skimage import data, exposure
from torch import Tensor, nn
from torch.testing import assert_close

from invdiff.operators import JPEG, Clip, Gamma, NetworkOperator, Quantize


def photograph(height: int, width: int) -> np.ndarray:
    return data.chelsea()[60 : 60 + height, 120 : 120 + width]


def as_image(values: np.ndarray) -> Tensor:
    """Return whole numbers up to 255 as a batch of one image that spans [-1, 1]."""
    channels_first = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    return torch.from_numpy(channels_first.astype(np.float64))[None] / 127.5 - 1


def by_pillow(values: np.ndarray, quality: int) -> tuple[Tensor, list[list[int]]]:
    """Return what libjpeg makes of an image, and its tables."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return as_image(np.asarray(image)), list(cast(Any, image).quantization.values())


def psnr(a: Tensor, b: Tensor) -> float:
    return float(10 * torch.log10(4 / (a - b).square().mean()))


class TestJPEG:
    @pytest.mark.parametrize(("quality", "least"), [(5, 33), (10, 35), (20, 38), (50, 41), (75, 42), (95, 45)])
    @pytest.mark.parametrize("side", [(128, 160), (121, 150)])
    def test_agrees_with_pillow(self, quality: int, least: float, side: tuple[int, int]) -> None:
        photo = photograph(*side)
        x, (expected, _) = as_image(photo), by_pillow(photo, quality)
        y = JPEG((3, *side), quality)(x)
        assert psnr(y, expected) > least
        # The damage itself is far greater than that.
        assert psnr(x, expected) < psnr(y, expected) - 5

    def test_agrees_with_pillow_on_gray(self) -> None:
        photo = photograph(121, 150)[..., 1]
        y = JPEG((1, 121, 150), 20)(as_image(photo))
        assert y.shape == (1, 1, 121, 150)
        assert psnr(y, by_pillow(photo, 20)[0]) > 41

    @pytest.mark.parametrize("quality", [10, 50, 75])
    def test_tables_of_a_file(self, quality: int) -> None:
        photo = photograph(128, 160)
        expected, tables = by_pillow(photo, quality)
        by_table = JPEG((3, 128, 160), tables=tables)(as_image(photo))
        assert psnr(by_table, expected) > 35
        assert psnr(by_table, JPEG((3, 128, 160), quality)(as_image(photo))) > 42
        other = JPEG((3, 128, 160), tables=[[min(2 * entry, 255) for entry in table] for table in tables])
        assert psnr(other(as_image(photo)), expected) < psnr(by_table, expected) - 3

    def test_sides_are_continued_by_the_last_pixel(self) -> None:
        x = as_image(photograph(21, 30))
        padded = nn.functional.pad(x, (0, 2, 0, 11), mode="replicate")
        assert_close(JPEG((3, 21, 30), 20)(x), JPEG((3, 32, 32), 20)(padded)[..., :21, :30])

    def test_gradient_is_finite_and_vanishes_at_a_fixed_point(self) -> None:
        op, x = JPEG((3, 64, 64), 30), as_image(photograph(64, 64))
        gradient = op.jacobian(x).adjoint(randn(1, 3, 64, 64))
        assert gradient.isfinite().all()
        stored = x
        for _ in range(6):
            stored = op(stored)
        assert norm(op.jacobian(stored).adjoint(randn(1, 3, 64, 64))) < 0.2 * norm(gradient)

    @pytest.mark.parametrize("options", [{"quality": 10}, {"tables": [range(20, 84), range(30, 94)]}])
    def test_derivative_of_whole_blocks(self, options: dict[str, Any]) -> None:
        op, x, direction, step = JPEG((3, 16, 24), **options), randn(1, 3, 16, 24), randn(1, 3, 16, 24, seed=1), 1e-6
        differences = (op(x + step * direction) - op(x - step * direction)) / (2 * step)
        gap = norm(op.jacobian(x)(direction) - differences) / norm(differences)
        assert gap < 1e-7, gap

    @pytest.mark.parametrize(
        ("in_shape", "options", "message"),
        [
            ((2, 16, 16), {"quality": 50}, r"3 channels \(RGB\) or 1 \(gray\), got 2"),
            ((3, 16, 16), {}, "give either quality or tables, got quality=None and tables=None"),
            ((3, 16, 16), {"quality": 50, "tables": [[16] * 64]}, "give either quality or tables"),
            ((3, 16, 16), {"quality": 0}, "quality must lie between 1 and 100, got 0"),
            ((3, 16, 16), {"quality": math.nan}, "quality must lie between 1 and 100, got nan"),
            ((3, 16, 16), {"tables": [[16] * 63]}, r"64 integers from 1 to 255, got shape \(1, 63\)"),
            ((3, 16, 16), {"tables": [[0] * 64]}, "with values from 0 to 0"),
        ],
    )
    def test_rejects(self, in_shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            JPEG(in_shape, **options)


class TestClip:
    x = torch.tensor([[-2.0, -0.6, -0.4, 0.0, 0.3, 0.5, 4.0]])

    def test_by_hand(self) -> None:
        op = Clip((7,), -1.0, 0.8, gain=2.0)
        assert_close(op(self.x), torch.tensor([[-1.0, -1.0, -0.8, 0.0, 0.6, 0.8, 0.8]]))

    def test_gradient_is_zero_outside_and_the_gain_inside(self) -> None:
        gradient = Clip((7,), -1.0, 0.8, gain=2.0).jacobian(self.x).adjoint(torch.ones(1, 7))
        assert gradient.tolist() == [[0, 0, 2, 2, 2, 0, 0]]

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize(("low", "high", "gain"), [(-1.0, 1.0, 1.0), (0.0, 1.0, 3.0), (-0.7, 0.0, 2.0)])
    def test_the_ends_belong_to_the_range(self, low: float, high: float, gain: float, dtype: torch.dtype) -> None:
        x = torch.tensor([[low - 0.02, low, (low + high) / 2, high, high + 0.02]], dtype=dtype) / gain
        assert Clip((5,), low, high, gain=gain).jacobian(x).adjoint(torch.ones(1, 5, dtype=dtype)).tolist() == [
            [0, gain, gain, gain, 0]
        ]

    def test_open_to_one_side(self) -> None:
        assert_close(Clip((7,), -math.inf, 0.4)(self.x), self.x.clamp(max=0.4))

    def test_noise_comes_after(self) -> None:
        assert (Clip((7,), -1.0, 1.0, sigma_y=0.3).measure(torch.full((1, 7), 9.0), seed=0) != 1).all()

    @pytest.mark.parametrize(
        ("low", "high", "gain", "message"),
        [
            (1.0, 1.0, 1.0, "low must be below high, got low=1 and high=1"),
            (math.nan, 1.0, 1.0, "low must be below high"),
            (-1.0, 1.0, 0.0, "gain must be positive and finite, got 0"),
            (-1.0, 1.0, math.inf, "gain must be positive and finite, got inf"),
        ],
    )
    def test_rejects(self, low: float, high: float, gain: float, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Clip((7,), low, high, gain=gain)


class TestQuantize:
    def test_by_hand(self) -> None:
        op = Quantize((6,), 5, low=-1.0, high=1.0)
        assert op.step == 0.5
        x = torch.tensor([[-3.0, -0.8, -0.7, 0.2, 0.3, 1.4]])
        assert op(x).tolist() == [[-1.0, -1.0, -0.5, 0.0, 0.5, 1.0]]

    def test_one_bit(self) -> None:
        assert Quantize((3,), 2, low=0.0, high=1.0)(torch.tensor([[-4.0, 0.4, 0.6]])).tolist() == [[0, 0, 1]]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_keeps_images_of_8_bits(self, dtype: torch.dtype) -> None:
        x = torch.arange(256, dtype=dtype)[None] / 127.5 - 1
        assert_close(Quantize((256,), 256, low=-1.0, high=1.0)(x), x, atol=1e-6, rtol=0)

    def test_takes_few_values(self) -> None:
        assert len(Quantize((4000,), 8, low=-1.0, high=1.0)(randn(1, 4000, dtype=torch.float32)).unique()) == 8

    def test_gradient_is_straight_through(self) -> None:
        op, x = Quantize((6,), 5, low=-1.0, high=1.0), 3 * randn(2, 6)
        assert op.surrogate
        assert torch.equal(op.jacobian(x)(randn(2, 6, seed=1)), randn(2, 6, seed=1))
        assert torch.equal(op.jacobian(x).adjoint(randn(2, 6, seed=1)), randn(2, 6, seed=1))

    def test_the_error_is_uniform_over_a_step(self) -> None:
        op = Quantize((100_000,), 16, low=-1.0, high=1.0)
        x = 2 * torch.rand(1, 100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
        error = op(x) - x
        assert error.abs().max() <= op.step / 2 + 1e-12
        assert_close(error.std(), torch.tensor(op.step / 12**0.5, dtype=torch.float64), atol=0, rtol=0.01)

    @pytest.mark.parametrize(
        ("levels", "low", "high", "error", "message"),
        [
            (1, 0.0, 1.0, ValueError, r"levels must be at least 2, got 1. For b bits give 2\*\*b"),
            (2.5, 0.0, 1.0, TypeError, "levels must be an integer, got 2.5"),
            (4, 1.0, 1.0, ValueError, "low must be below high and both finite, got low=1 and high=1"),
            (4, 0.0, math.inf, ValueError, "both finite"),
        ],
    )
    def test_rejects(self, levels: Any, low: float, high: float, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            Quantize((3,), levels, low=low, high=high)


class TestGamma:
    @pytest.mark.parametrize("exponent", [0.3, 1 / 2.2, 1.0, 2.2])
    def test_agrees_with_scikit_image(self, exponent: float) -> None:
        u = np.linspace(1 / 255, 1, 255)
        expected = torch.from_numpy(2 * exposure.adjust_gamma(u, cast(Any, exponent)) - 1)
        assert_close(Gamma((255,), exponent)(torch.from_numpy(2 * u - 1)[None])[0], expected)

    @pytest.mark.parametrize("exponent", [0.3, 1 / 2.2, 1.0, 2.2])
    def test_rises_smoothly_through_black(self, exponent: float) -> None:
        op = Gamma((4001,), exponent)
        x = torch.linspace(-1.02, -0.98, 4001, dtype=torch.float64)[None].requires_grad_()
        y = op(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        assert_close(y[:, 2000], -torch.ones(1, dtype=torch.float64))  # Black stays black.
        assert (y.diff() > 0).all()
        assert slope.isfinite().all()
        # No jump, neither in the value nor in the slope; and odd.
        assert y.diff().max() < 1.01 * slope.max() * 1e-5
        assert slope.diff().abs().max() < 0.02 * slope.max()
        assert_close(y + 1, -(y + 1).flip(-1), atol=1e-12, rtol=0)

    @pytest.mark.parametrize("exponent", [0.3, 1 / 2.2, 1.0, 2.2])
    def test_derivatives(self, exponent: float) -> None:
        x = torch.tensor([[-1.3, -1.003, -1.0005, -0.9995, -0.997, -0.4, 0.2, 1.0, 1.5]], dtype=torch.float64).requires_grad_()
        op = Gamma((9,), exponent)
        assert torch.autograd.gradcheck(op, x, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(op, x, atol=1e-3)

    def test_slope_at_black_is_the_one_documented(self) -> None:
        slope = Gamma((1,), 1 / 2.2).jacobian(torch.tensor([[-1.0]])).adjoint(torch.ones(1, 1))
        assert_close(slope, torch.tensor([[(2 - 1 / 2.2) * (1 / 512) ** (1 / 2.2 - 1)]]))
        assert 46 < slope < 47
        assert Gamma((1,), 2.2).jacobian(torch.tensor([[-1.0]])).adjoint(torch.ones(1, 1)) == 0

    @pytest.mark.parametrize("exponent", [0.0, -1.0, math.nan, math.inf])
    def test_rejects(self, exponent: float) -> None:
        with pytest.raises(ValueError, match="exponent must be positive and finite"):
            Gamma((3,), exponent)


class TestNetworkOperator:
    def network(self) -> nn.Sequential:
        blur = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.SiLU(), nn.Conv2d(3, 1, 2, 2)
        )
        with torch.no_grad():
            for i, weight in enumerate(blur.parameters()):
                weight.copy_(randn(*weight.shape, seed=i))
        return blur

    def test_is_the_network_in_evaluation_mode(self) -> None:
        network, x = self.network(), randn(4, 1, 6, 8, dtype=torch.float32)
        op = NetworkOperator(network, (1, 6, 8), sigma_y=0.1)
        assert op.out_shape == (1, 3, 4)
        assert_close(op(x), copy.deepcopy(network).eval()(x))

    def test_leaves_the_network_alone(self) -> None:
        network, x = self.network(), randn(2, 1, 6, 8, dtype=torch.float32)
        before = copy.deepcopy(network.state_dict())
        op = NetworkOperator(network, (1, 6, 8))
        expected = op(x)
        moved = op.to(dtype=torch.float64)
        moved(x.double())
        assert network.training
        assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in network.parameters())
        assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
        for weight in network.parameters():
            weight.data.zero_()
        assert torch.equal(op(x), expected)
        assert all(weight.dtype == torch.float32 for weight in op.network.parameters())
        assert all(weight.dtype == torch.float64 for weight in moved.network.parameters())

    def test_gradient_reaches_the_image_alone(self) -> None:
        op, x = NetworkOperator(self.network(), (1, 6, 8)), randn(2, 1, 6, 8).requires_grad_()
        op(x).square().sum().backward()
        assert x.grad is not None
        assert x.grad.abs().max() > 0
        assert all(weight.grad is None for weight in op.network.parameters())

    def test_shared_weights_and_no_weights(self) -> None:
        layer = nn.Conv2d(1, 1, 3, padding=1)
        x = randn(2, 1, 6, 8)
        expected = copy.deepcopy(layer).double()
        assert_close(NetworkOperator(nn.Sequential(layer, nn.Tanh(), layer), (1, 6, 8))(x), expected(expected(x).tanh()))
        assert_close(NetworkOperator(nn.AvgPool2d(2), (1, 6, 8))(x), nn.functional.avg_pool2d(x, 2))

    def test_rejects(self) -> None:
        with pytest.raises(
            TypeError, match=r"must be a torch.nn.Module, got builtin_function_or_method\. For any other callable"
        ):
            NetworkOperator(cast(Any, torch.tanh), (3,))
        with pytest.raises(TypeError, match="must return a real floating-point tensor, got tuple"):
            NetworkOperator(nn.GRU(3, 2), (5, 3))
