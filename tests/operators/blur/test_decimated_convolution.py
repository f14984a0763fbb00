"""Blur, then every s-th pixel: against strided convolutions of torch and dense matrices, and what compose makes of the two."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import norm, randn
from operator_checks import (
    LINEAR_LAWS,
    assert_near,
    check_adjoint,
    check_pinv,
    check_precondition,
    check_prox,
    check_solve,
    inputs,
    outputs,
)
from torch import Tensor
from torch.testing import assert_close

from invdiff.linalg import dense_matrix
from invdiff.operators import (
    Blur,
    Downsample,
    GaussianNoise,
    LinearOperator,
    Mask,
    SubsampledConvolution,
    defocus_kernel,
    gaussian_kernel,
)
from invdiff.operators.algebra.compose import LinearComposed
from invdiff.operators.blur.convolution import CircularConvolution
from invdiff.operators.blur.decimated_convolution import DecimatedConvolution

SHAPE = (2, 12, 8)
CASES = [((3, 4), (2, 2), (0, 0)), ((4, 4), (3, 2), (2, 1)), ((5, 1), (4, 8), (0, 5)), ((12, 8), (1, 4), (0, 3))]
KERNELS = pytest.mark.parametrize(("size", "stride", "offset"), CASES)


def matrix_of(op: LinearOperator) -> Tensor:
    return dense_matrix(op.forward, op.in_shape, dtype=torch.float64, device=torch.device("cpu"))


def blurred_and_decimated(x: Tensor, kernel: Tensor, stride: tuple[int, int], offset: tuple[int, int]) -> Tensor:
    """Return it by torch: circular padding, then a strided correlation with the flipped kernel."""
    rows, columns = kernel.shape
    around = [columns - 1 - columns // 2, columns // 2, rows - 1 - rows // 2, rows // 2]
    wide = F.pad(x, around, mode="circular")[..., offset[0] :, offset[1] :]
    taps = kernel.flip(0, 1).expand(x.shape[1], 1, rows, columns)
    return F.conv2d(wide, taps, stride=stride, groups=x.shape[1])


class TestFolding:
    @KERNELS
    def test_agrees_with_a_strided_convolution(
        self, size: tuple[int, int], stride: tuple[int, int], offset: tuple[int, int]
    ) -> None:
        kernel, x = randn(*size), randn(3, *SHAPE)
        expected = blurred_and_decimated(x, kernel, stride, offset)
        for op in (
            DecimatedConvolution(SHAPE, kernel, stride=stride, offset=offset),
            SubsampledConvolution(SHAPE, kernel, stride=stride, boundary="circular", offset=offset),
        ):
            assert_near(op(x), expected, 1e-13)
            assert_near(op(x.float()), expected.float(), 1e-6)

    @KERNELS
    def test_solves_what_the_matrix_gives(
        self, size: tuple[int, int], stride: tuple[int, int], offset: tuple[int, int]
    ) -> None:
        op = DecimatedConvolution(SHAPE, randn(*size), stride=stride, offset=offset)
        matrix, z, y, lam = matrix_of(op), inputs(op), outputs(op), 0.03
        gram, eye = matrix @ matrix.T, torch.eye(len(matrix), dtype=torch.float64)
        assert_near(op.adjoint(y).flatten(1), y.flatten(1) @ matrix, 1e-13)
        assert_near(op.solve(y, lam).flatten(1), torch.linalg.solve(gram + lam * eye, y.flatten(1).T).T, 1e-10)
        assert_near(op.pinv(y).flatten(1), y.flatten(1) @ torch.linalg.pinv(matrix).T, 1e-10)
        system = matrix.T @ matrix + lam * torch.eye(matrix.shape[1], dtype=torch.float64)
        expected = torch.linalg.solve(system, (y.flatten(1) @ matrix + lam * z.flatten(1)).T).T
        assert_near(op.prox(z, y, lam).flatten(1), expected, 1e-10)

    @pytest.mark.parametrize("boundary", ["circular", "reflect", "zero"])
    def test_the_offset_is_the_first_place(self, boundary: str) -> None:
        kernel, x = randn(3, 2), randn(1, *SHAPE)
        whole = SubsampledConvolution(SHAPE, kernel, stride=1, boundary=boundary)(x)
        for stride, offset in (((2, 4), (1, 3)), ((4, 2), (2, 0))):
            op = SubsampledConvolution(SHAPE, kernel, stride=stride, boundary=boundary, offset=offset)
            assert_close(op(x), whole[..., offset[0] :: stride[0], offset[1] :: stride[1]])
            check_adjoint(op)

    def test_strides_need_not_divide_what_is_left(self) -> None:
        for boundary in ("reflect", "zero"):
            whole = SubsampledConvolution((1, 11), randn(4), stride=1, boundary=boundary)
            op = SubsampledConvolution((1, 11), randn(4), stride=4, boundary=boundary, offset=3)
            x = inputs(op)
            assert op.out_shape == (1, 2)
            assert_close(op(x), whole(x)[..., 3::4])
            check_adjoint(op)

    def test_a_phase_that_is_never_seen(self) -> None:
        # Of one pixel of each block the image is seen, of the others nothing: their spectra are rounding, or exactly 0.
        for place in ((0, 0), (1, 2)):
            op = DecimatedConvolution((1, 8, 12), torch.ones(1, 1, dtype=torch.float64), stride=(2, 3), offset=place)
            for law in LINEAR_LAWS:
                law(op)

    def test_singular_values_of_large_ones(self) -> None:
        op = SubsampledConvolution((3, 96, 120), defocus_kernel(3.0), stride=4, boundary="circular")
        svd, x, y = op.svd, inputs(op), outputs(op)
        assert svd is not None
        assert int((svd.singular > 0).sum()) == y[0].numel()
        assert_near(svd.synthesize(svd.analyze(x)), x, 1e-13)
        assert_close(norm(svd.analyze(x)), norm(x))
        assert_near(svd.measured(op(x)), svd.singular * svd.analyze(x), 1e-12)
        assert_near(svd.synthesize(svd.singular * svd.measured(y)), op.adjoint(y), 1e-12)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"offset": 2}, ValueError, r"from 0 to stride - 1 .* for stride \(2, 2\) and sides \(12, 8\), got 2"),
            ({"offset": (0, -1)}, ValueError, r"got \(0, -1\)"),
            ({"offset": (0, 1, 0)}, ValueError, r"got \(0, 1, 0\)"),
            ({"offset": 0.5}, TypeError, r"offset must be an integer or one for each axis, got 0\.5"),
            ({"stride": 5}, ValueError, r"each stride must divide its side, got stride \(5, 5\) for \(12, 8\)\. Crop x"),
        ],
    )
    def test_rejects(self, options: dict[str, Any], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            SubsampledConvolution(SHAPE, torch.ones(2, 2), **{"stride": 2, "boundary": "circular", **options})


class TestCompose:
    """A circular blur and what decimates its result are one operator, with a closed form at any size."""

    blur = Blur(SHAPE, randn(4, 3))

    @pytest.mark.parametrize(
        "outer",
        [
            Downsample(SHAPE, 2, sigma_y=0.1),
            Downsample(SHAPE, 4, kernel=randn(3, 4)),
            Downsample(SHAPE, 2, kernel=gaussian_kernel(0.8, 5)),
            SubsampledConvolution(SHAPE, torch.ones(1, 1), stride=(3, 2), boundary="circular", offset=(1, 1)),
            DecimatedConvolution(SHAPE, randn(2, 2), stride=(2, 1), offset=(1, 0)),
        ],
        ids=["block means", "blur kernel", "separable blur kernel", "decimation", "folded"],
    )
    def test_is_one_after_the_other(self, outer: LinearOperator) -> None:
        op, x, y = outer @ self.blur, inputs(self.blur), outputs(outer)
        assert isinstance(op, DecimatedConvolution)
        assert op.closed_form
        assert op.sigma_y == outer.sigma_y
        assert_near(op(x), outer(self.blur(x)), 1e-13)
        assert_near(op.adjoint(y), self.blur.adjoint(outer.adjoint(y)), 1e-13)
        for law in (check_solve, check_pinv, check_prox, check_precondition):
            law(op)

    def test_more_than_two(self) -> None:
        coarse = Blur((2, 6, 4), randn(3, 3, seed=1), sigma_y=0.2)
        op = Downsample((2, 6, 4), 2) @ Blur((2, 6, 4), coarse.kernel) @ Downsample(SHAPE, 2) @ self.blur
        assert isinstance(op, DecimatedConvolution)
        assert op.stride == (4, 4)
        x = inputs(op)
        assert_near(op(x), Downsample((2, 6, 4), 2)(coarse(Downsample(SHAPE, 2)(self.blur(x)))), 1e-13)
        assert isinstance((coarse @ (Downsample(SHAPE, 2) @ self.blur)).noise, GaussianNoise)
        assert (coarse @ (Downsample(SHAPE, 2) @ self.blur)).sigma_y == 0.2

    def test_in_other_dimensions(self) -> None:
        first = SubsampledConvolution((1, 12), randn(3), stride=2, boundary="circular", offset=1)
        second = SubsampledConvolution((1, 6), randn(2), stride=3, boundary="circular")
        op, x = second @ first, randn(2, 1, 12)
        assert isinstance(op, DecimatedConvolution)
        assert_near(op(x), second(first(x)), 1e-13)

    def test_what_is_something_else(self) -> None:
        area = Downsample(SHAPE, 2)
        mirrored = Blur(SHAPE, randn(4, 3), boundary="symmetric")
        for op in (
            area @ mirrored,
            Downsample(SHAPE, 2, kernel="bicubic") @ self.blur,
            Mask(torch.ones(6, 4), (2, 6, 4)) @ area,
        ):
            assert isinstance(op, LinearComposed)
        twice = Downsample((2, 6, 4), 2) @ area
        assert isinstance(twice, LinearComposed)
        assert twice.gram_scale == 1 / 16
        assert isinstance(self.blur @ self.blur, CircularConvolution)

    def test_of_moved_operators(self) -> None:
        blur, x = self.blur.to(dtype=torch.float32), inputs(self.blur)
        op = Downsample(SHAPE, 2) @ blur
        assert_near(op(x), Downsample(SHAPE, 2)(self.blur(x)), 1e-6)
