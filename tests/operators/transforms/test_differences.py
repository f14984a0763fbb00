"""Differences, sums and cosine transforms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import scipy.ndimage
import torch
from helpers import randn
from torch import Tensor
from torch.testing import assert_close

from invdiff.cosine_transform import CosineTransform
from invdiff.linalg import dense_matrix
from invdiff.operators import (
    CumulativeSum,
    FiniteDifferences,
    LinearOperator,
)


def matrix_of(op: LinearOperator) -> Tensor:
    return dense_matrix(op.forward, op.in_shape, dtype=torch.float64, device=torch.device("cpu"))


def solve_densely(op: LinearOperator, v: Tensor, lam: float) -> Tensor:
    matrix = matrix_of(op)
    gram = matrix @ matrix.T + lam * torch.eye(len(matrix), dtype=torch.float64)
    return torch.linalg.solve(gram, v.flatten(1).T).T.reshape(v.shape)


def pinv_densely(op: LinearOperator, y: Tensor) -> Tensor:
    return (y.flatten(1) @ torch.linalg.pinv(matrix_of(op)).T).reshape(-1, *op.in_shape)


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
        with pytest.raises(ValueError, match=r"must be distinct and have a length of at least 2, got \(1, -2\)"):
            FiniteDifferences((2, 4, 5), axes=(1, -2))
        with pytest.raises(ValueError, match=r"must be distinct and have a length of at least 2, got \(0,\)"):
            FiniteDifferences((1, 4, 5), axes=(0,))


class TestCosineTransform:
    @pytest.mark.parametrize("side", [1, 2, 7, 8])
    def test_agrees_with_scipy(self, side: int) -> None:
        x = randn(3, side, 2)
        expected = torch.from_numpy(scipy.fft.dct(x.numpy(), axis=1, norm="ortho"))
        assert_close(CosineTransform(side, ends=False).analyze(x, 1), expected)

    @pytest.mark.parametrize("side", [1, 2, 7, 8])
    @pytest.mark.parametrize("ends", [False, True])
    def test_gives_eigenvectors_of_second_differences(self, side: int, ends: bool) -> None:
        differences = torch.eye(side, dtype=torch.float64) - torch.eye(side + 1, dtype=torch.float64)[1:, :side]
        differences = differences if ends else differences[:-1]  # The last row is x_{n-1} - x_n.
        cosines = CosineTransform(side, ends=ends)
        vectors = cosines.synthesize(torch.eye(side, dtype=torch.float64), -1)
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
