"""Smaller and larger images, against Pillow."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
import torch.nn.functional as F
from helpers import norm, randn
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from invdiff.operators import (
    Downsample,
    LinearOperator,
    Resize,
    defocus_kernel,
    gaussian_kernel,
)
from invdiff.operators.blur.separable import Separable
from invdiff.operators.blur.strided_convolution import SubsampledConvolution
from invdiff.operators.resampling.resize import RESIZE_KERNELS, resize_matrix


class TestDownsample:
    @pytest.mark.parametrize("factor", [1, 2, 4])
    def test_area_is_the_block_mean(self, factor: int) -> None:
        x = randn(2, 3, 8, 12)
        expected = x.reshape(2, 3, 8 // factor, factor, 12 // factor, factor).mean((3, 5))
        assert_close(Downsample((3, 8, 12), factor)(x), expected)

    @pytest.mark.parametrize(("side", "factor"), [((8, 12), 2), ((32, 48), 4), ((24, 9), 3), ((8, 8), 8), ((5, 7), 1)])
    def test_bicubic_agrees_with_pillow(self, side: tuple[int, int], factor: int) -> None:
        x = randn(1, *side, dtype=torch.float32)
        small = Image.fromarray(x[0].numpy()).resize((side[1] // factor, side[0] // factor), Image.Resampling.BICUBIC)
        actual = Downsample((1, *side), factor, kernel="bicubic")(x.unsqueeze(0))
        assert_close(actual[0, 0], torch.from_numpy(np.array(small)), atol=1e-6, rtol=1e-6)

    @pytest.mark.parametrize("factor", [0, -2, 5, 8])
    def test_rejects_factor(self, factor: int) -> None:
        with pytest.raises(ValueError, match=f"got factor={factor} for height 8, width 12. Crop or pad the image"):
            Downsample((3, 8, 12), factor)

    def test_rejects_kind(self) -> None:
        with pytest.raises(TypeError, match=r"factor must be an integer, got 2\.0"):
            Downsample((3, 8, 12), cast(Any, 2.0))
        with pytest.raises(ValueError, match="unknown kernel 'nearest', expected one of area, bicubic"):
            Downsample((3, 8, 12), 2, kernel="nearest")


def check_solve(op: LinearOperator, rtol: float = 1e-9) -> None:
    v = randn(2, *op.out_shape)
    w = op.solve(v, 1e-2)
    assert (norm(op(op.adjoint(w)) + 1e-2 * w - v) <= rtol * norm(v)).all()


def check_adjoint(op: LinearOperator) -> None:
    x, y = randn(2, *op.in_shape, seed=1), randn(2, *op.out_shape, seed=2)
    gap = (op(x) * y).flatten(1).sum(1) - (x * op.adjoint(y)).flatten(1).sum(1)
    assert (gap.abs() <= 1e-12 * norm(op(x)) * norm(y)).all()


PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def pillow(x: Tensor, size: tuple[int, int], kernel: str) -> Tensor:
    small = Image.fromarray(x.float().numpy()).resize((size[1], size[0]), PILLOW[kernel])
    return torch.from_numpy(np.array(small)).double()


class TestResize:
    @pytest.mark.parametrize("kernel", PILLOW)
    @pytest.mark.parametrize("size", [(11, 13), (5, 7), (24, 31), (50, 47), (17, 40), (64, 9), (1, 2), (24, 90)])
    def test_agrees_with_pillow(self, size: tuple[int, int], kernel: str) -> None:
        x = randn(24, 31)
        actual = Resize((1, 24, 31), size, kernel=kernel)(x[None, None])[0, 0]
        assert_close(actual, pillow(x, size, kernel), atol=2e-6, rtol=0)

    @pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
    def test_agrees_with_torch(self, kernel: str) -> None:
        x = randn(1, 2, 24, 31)
        expected = F.interpolate(x, size=(11, 19), mode=kernel, antialias=True)
        assert_close(Resize((2, 24, 31), (11, 19), kernel=kernel)(x), expected)

    def test_bicubic_is_keys_with_a_half(self) -> None:
        row = resize_matrix(8, 16, "bicubic")[7]  # A quarter of a pixel beyond the center of pixel 3.
        expected = torch.tensor([0, 0, -0.0703125, 0.8671875, 0.2265625, -0.0234375, 0, 0], dtype=torch.float64)
        assert_close(row, expected.roll(1) if row.argmax() == 4 else expected)
        assert int(row.argmax()) == 3

    @pytest.mark.parametrize("factor", [2, 3, 4])
    def test_bicubic_is_imresize_of_matlab_but_for_the_border(self, factor: int) -> None:
        side = 12 * factor
        size, width = side // factor, 4 * factor
        matlab = np.zeros((size, side))
        mirror = np.r_[0:side, side - 1 : -1 : -1]
        for i in range(size):  # Its contributions, counted from 0: the kernel widened, pixels mirrored.
            center = (i + 0.5) * factor - 0.5
            first = math.floor(center - width / 2)
            pixels = np.arange(first, first + width + 2)
            t = np.abs(center - pixels) / factor
            near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
            weights = near * (t <= 1) + far * ((t > 1) & (t <= 2))
            np.add.at(matlab[i], mirror[pixels % len(mirror)], weights / weights.sum())
        ours = resize_matrix(side, size, "bicubic")
        assert_close(ours[2:-2], torch.from_numpy(matlab)[2:-2], atol=1e-14, rtol=0)
        assert float((ours - torch.from_numpy(matlab))[[0, -1]].abs().max()) > 1e-3

    def test_area_by_hand(self) -> None:
        expected = torch.tensor([[2, 1, 0], [0, 1, 2]], dtype=torch.float64) / 3
        assert_close(resize_matrix(3, 2, "area"), expected)
        assert_close(resize_matrix(2, 3, "area"), torch.tensor([[2, 0], [1, 1], [0, 2]], dtype=torch.float64) / 2)
        x = randn(1, 2, 12, 8)
        assert_close(Resize((2, 12, 8), (4, 2), kernel="area")(x), F.avg_pool2d(x, (3, 4)))

    @pytest.mark.parametrize("kernel", RESIZE_KERNELS)
    @pytest.mark.parametrize("size", [(9, 14), (30, 33), (40, 10)])
    def test_closed_form_at_any_size(self, size: tuple[int, int], kernel: str) -> None:
        op = Resize((1, 24, 31), size, kernel=kernel)
        ones = torch.ones(1, 1, 24, 31, dtype=torch.float64)
        assert_close(op(ones), torch.ones(1, 1, *size, dtype=torch.float64))
        check_adjoint(op)
        check_solve(op)
        x, svd = randn(2, 1, 24, 31), op.svd
        assert (norm(op(op.pinv(op(x))) - op(x)) <= 1e-10 * norm(x)).all()
        assert svd is not None
        assert (norm(svd.measured(op(x)) - svd.singular * svd.analyze(x)) <= 1e-12 * norm(x)).all()

    def test_rejects(self) -> None:
        with pytest.raises(ValueError, match="unknown kernel 'nearest', expected one of area, bicubic, bilinear, lanczos"):
            Resize((1, 8, 8), (4, 4), kernel="nearest")
        with pytest.raises(ValueError, match=r"out_size must be \(height, width\), got \(4,\)"):
            Resize((1, 8, 8), (4,), kernel="area")
        with pytest.raises(ValueError, match=r"out_size must be \(height, width\), got 4"):
            Resize((1, 8, 8), cast(Any, 4), kernel="area")
        with pytest.raises(ValueError, match="Resize: out_size"):
            Resize((1, 8, 8), (4, 0), kernel="area")
        with pytest.raises(TypeError, match="Resize: out_size"):
            Resize((1, 8, 8), cast(Any, (4, 2.5)), kernel="area")


class TestDownsampleKernels:
    @pytest.mark.parametrize("kernel", ["bicubic", "lanczos"])
    @pytest.mark.parametrize(("side", "factor"), [((8, 12), 2), ((32, 48), 4), ((24, 9), 3), ((8, 8), 8)])
    def test_agrees_with_pillow(self, side: tuple[int, int], factor: int, kernel: str) -> None:
        x, size = randn(*side), (side[0] // factor, side[1] // factor)
        actual = Downsample((1, *side), factor, kernel=kernel)(x[None, None])[0, 0]
        assert_close(actual, pillow(x, size, kernel), atol=2e-6, rtol=0)
        assert torch.equal(Resize((1, *side), size, kernel=kernel)(x[None, None])[0, 0], actual)

    @pytest.mark.parametrize("size", [(3, 4), (5, 1), (8, 12)])
    @pytest.mark.parametrize("separable", [False, True])
    def test_blur_then_every_other_pixel(self, size: tuple[int, int], separable: bool) -> None:
        kernel = randn(size[0], 1) @ randn(1, size[1], seed=1) if separable else randn(*size)
        x = randn(2, 3, 8, 12)
        op = Downsample((3, 8, 12), 2, kernel=kernel.numpy())
        expected = scipy.ndimage.convolve(x.numpy(), kernel.numpy()[None, None], mode="wrap")[..., ::2, ::2]
        assert_close(op(x), torch.from_numpy(expected))
        product = separable or 1 in size
        assert isinstance(op.reduction, Separable if product else SubsampledConvolution)
        check_adjoint(op)
        check_solve(op)

    def test_solves_large_ones_in_closed_form(self) -> None:
        for kernel in (defocus_kernel(2.5), gaussian_kernel(1.6)):
            op = Downsample((1, 96, 72), 3, kernel=kernel)
            assert op.closed_form
            check_solve(op)
        assert op.svd is not None

    def test_rejects(self) -> None:
        with pytest.raises(ValueError, match=r"expected one of area, bicubic, lanczos, or a tensor \(h, w\)"):
            Downsample((1, 8, 8), 2, kernel="nearest")
        with pytest.raises(ValueError, match="Downsample: the kernel must not be larger"):
            Downsample((1, 8, 8), 2, kernel=torch.ones(9, 3))
        with pytest.raises(ValueError, match="Downsample: kernel must be two-dimensional"):
            Downsample((1, 8, 8), 2, kernel=torch.ones(3))
