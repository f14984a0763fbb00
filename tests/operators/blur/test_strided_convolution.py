"""Strided convolutions."""

from __future__ import annotations

from typing import Any, cast

import pytest
import scipy.fft
import scipy.linalg
import scipy.ndimage
import torch
from helpers import randn
from torch import Tensor
from torch.testing import assert_close

from invdiff.linalg import conjugate_gradients, dense_matrix
from invdiff.operators import (
    Downsample,
    LinearOperator,
    SubsampledConvolution,
)

SCIPY_MODES = {"circular": "wrap", "reflect": "mirror", "zero": "constant"}


def matrix_of(op: LinearOperator) -> Tensor:
    return dense_matrix(op.forward, op.in_shape, dtype=torch.float64, device=torch.device("cpu"))


def solve_densely(op: LinearOperator, v: Tensor, lam: float) -> Tensor:
    matrix = matrix_of(op)
    gram = matrix @ matrix.T + lam * torch.eye(len(matrix), dtype=torch.float64)
    return torch.linalg.solve(gram, v.flatten(1).T).T.reshape(v.shape)


def pinv_densely(op: LinearOperator, y: Tensor) -> Tensor:
    return (y.flatten(1) @ torch.linalg.pinv(matrix_of(op)).T).reshape(-1, *op.in_shape)


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
            (torch.ones(7, 3), {}, ValueError, r"got shape \(7, 3\) for \(6, 8\)\. Crop the zeros"),
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
