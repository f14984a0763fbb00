"""What was made faster gives the same: sizes at which another way is taken, and numbers that are easily lost."""

from __future__ import annotations

import pytest
import scipy.fft
import torch
from helpers import randn
from torch import Tensor
from torch.testing import assert_close

from invdiff.cosine_transform import DENSE, CosineTransform
from invdiff.operators import ChannelMix, CodedDiffraction, FiniteDifferences


class TestCosineTransform:
    @pytest.mark.parametrize("side", [DENSE[False], DENSE[False] + 1])
    def test_agrees_with_scipy_by_matrix_and_by_fourier(self, side: int) -> None:
        cosines, x = CosineTransform(side, ends=False), randn(2, side, 3)
        assert (cosines.matrix is None) == (side > DENSE[False])
        expected = torch.from_numpy(scipy.fft.dct(x.numpy(), axis=1, norm="ortho"))
        assert_close(cosines.analyze(x, 1), expected, rtol=0, atol=1e-12)
        assert_close(cosines.synthesize(expected, 1), x, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("side", [DENSE[True], DENSE[True] + 1])
    def test_of_a_signal_that_ends(self, side: int) -> None:
        cosines, x = CosineTransform(side, ends=True), randn(2, 3, side)
        assert (cosines.matrix is None) == (side > DENSE[True])
        continued = torch.cat([x[..., :1], x, torch.zeros_like(x[..., :1])], -1)
        expected = -cosines.eigenvalues * cosines.analyze(x, -1)
        assert_close(cosines.analyze(continued.diff(n=2), -1), expected, rtol=0, atol=1e-11)
        assert_close(cosines.synthesize(cosines.analyze(x, -1), -1), x, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("boundary", ["replicate", "zero"])
    @pytest.mark.parametrize("side", [40, DENSE[True] + 6])
    def test_differences_are_solved(self, boundary: str, side: int) -> None:
        op = FiniteDifferences((side,), axes=[0], boundary=boundary)
        v = op.keep_measured(randn(2, *op.out_shape))
        w = op.solve(v, 0.1)
        assert_close(op(op.adjoint(w)) + 0.1 * w, v, rtol=0, atol=1e-10)


class TestChannelMix:
    matrix = randn(7, 2, seed=3)

    def reference(self, v: Tensor, lam: float) -> Tensor:
        gram = self.matrix @ self.matrix.mT + lam * torch.eye(7, dtype=torch.float64)
        return torch.linalg.solve(gram, v.flatten(2)).reshape(v.shape)

    @pytest.mark.parametrize("lam", [1e-4, 1.0])
    def test_what_is_in_the_range_is_not_lost_to_rounding(self, lam: float) -> None:
        op = ChannelMix((2, 4, 5), self.matrix)
        v = op(randn(2, 2, 4, 5))
        assert_close(op.solve(v, lam), self.reference(v, lam), rtol=0, atol=1e-11)
        back, expected = op.adjoint(op.solve(v.float(), lam)), op.adjoint(self.reference(v, lam))
        assert_close(back.double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))

    def test_lam_of_each_item(self) -> None:
        op, v, lam = ChannelMix((2, 4, 5), self.matrix), randn(2, 7, 4, 5), torch.tensor([0.1, 3.0], dtype=torch.float64)
        expected = torch.cat([self.reference(v[i : i + 1], float(lam[i])) for i in range(2)])
        assert_close(op.solve(v, lam.reshape(2, 1, 1, 1)), expected)


class TestCodedDiffraction:
    @pytest.mark.parametrize("power", [1, 2])
    @pytest.mark.parametrize("sides", [(4, 6), (5, 7), (5, 6)])
    def test_is_what_the_centered_transform_gives(self, sides: tuple[int, int], power: int) -> None:
        op, x = CodedDiffraction.random((2, *sides), 3, seed=0, power=power), randn(2, 2, *sides)
        axes = (-2, -1)
        images = torch.fft.ifftshift(op.masks.unsqueeze(1) * x.unsqueeze(1), axes)
        expected = torch.fft.fftshift(torch.fft.fft2(images, norm="ortho"), axes).abs() ** power
        assert_close(op(x), expected, rtol=0, atol=1e-13)
