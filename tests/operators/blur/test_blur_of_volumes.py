"""Blur and downsampling of volumes, against scipy and plain sums."""

from __future__ import annotations

import pytest
import scipy.ndimage
import scipy.signal
import torch
from helpers import randn
from torch.testing import assert_close

from invdiff.operators import Blur, Downsample, SubsampledConvolution
from invdiff.operators.blur.boundaries import BOUNDARIES, SCIPY_MODES, Border
from invdiff.operators.blur.convolution import CircularConvolution

SHAPE = (2, 5, 6, 7)


@pytest.mark.parametrize("size", [(3, 2, 4), (1, 1, 3), (5, 6, 7), (2, 1, 1)])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_blur_is_scipys_convolution(boundary: str, size: tuple[int, int, int]) -> None:
    kernel, x = randn(*size, seed=1), randn(2, *SHAPE)
    y = Blur(SHAPE, kernel, boundary=boundary)(x)
    volumes = x.flatten(0, 1).numpy()
    if boundary == "valid":
        expected = [scipy.signal.convolve(volume, kernel.numpy(), "valid", method="direct") for volume in volumes]
    else:
        expected = [scipy.ndimage.convolve(volume, kernel.numpy(), mode=SCIPY_MODES[boundary]) for volume in volumes]
    assert_close(y.flatten(0, 1), torch.stack([torch.from_numpy(volume) for volume in expected]))


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_fold_is_the_adjoint_of_extend(boundary: str) -> None:
    border = Border(boundary, (4, 5, 6), (3, 2, 4))
    x, z, y = randn(2, 4, 5, 6), randn(2, *border.torus, seed=1), randn(2, *border.out, seed=2)
    assert_close((border.extend(x) * z).sum(), (x * border.fold(z)).sum())
    assert_close((border.crop(z) * y).sum(), (z * border.embed(y)).sum())


def test_a_circular_blur_is_solved_in_closed_form() -> None:
    op = Blur((1, 8, 20, 20), randn(3, 3, 3))
    assert op.closed_form
    assert op.svd is not None
    v = randn(1, 1, 8, 20, 20, seed=2)
    w = op.solve(v, 0.2)
    assert_close(op(op.adjoint(w)) + 0.2 * w, v)
    assert not Blur((1, 8, 20, 20), randn(3, 3, 3), boundary="reflect").closed_form


def test_two_blurs_are_one() -> None:
    a, b = Blur(SHAPE, randn(2, 3, 3, seed=1)), Blur(SHAPE, randn(3, 1, 2, seed=2))
    x = randn(2, *SHAPE)
    assert isinstance(a @ b, CircularConvolution)
    assert_close((a @ b)(x), a(b(x)))


@pytest.mark.parametrize(("factor", "sides"), [(2, (2, 2, 2)), ((4, 1, 1), (4, 1, 1)), ((1, 3, 2), (1, 3, 2))])
def test_blocks_are_averaged(factor: int | tuple[int, ...], sides: tuple[int, int, int]) -> None:
    x, op = randn(2, 3, 4, 6, 8), Downsample((3, 4, 6, 8), factor)
    d, h, w = sides
    expected = x.reshape(2, 3, 4 // d, d, 6 // h, h, 8 // w, w).mean((3, 5, 7))
    assert_close(op(x), expected)
    assert_close(op.pinv(expected)[:, :, ::d, ::h, ::w], expected)


def test_a_kernel_and_a_factor_per_axis() -> None:
    kernel, x = randn(2, 3, 3), randn(2, 1, 4, 6, 8)
    op = Downsample((1, 4, 6, 8), (2, 1, 4), kernel=kernel)
    assert_close(op(x), Blur((1, 4, 6, 8), kernel)(x)[..., ::2, :, ::4])
    merged = Downsample((1, 4, 6, 8), (2, 1, 4), kernel=kernel) @ Blur((1, 4, 6, 8), kernel)
    assert merged.closed_form
    assert_close(merged(x), op(Blur((1, 4, 6, 8), kernel)(x)))
    same = SubsampledConvolution((1, 4, 6, 8), kernel, stride=(2, 1, 4), boundary="circular")
    assert_close(op(x), same(x))


def test_refuse() -> None:
    with pytest.raises(ValueError, match="blur every slice by itself: per_slice"):
        Blur(SHAPE, randn(3, 3))
    with pytest.raises(ValueError, match="got kernel 6 x 1 x 1 for depth 5, height 6, width 7"):
        Blur(SHAPE, randn(6, 1, 1))
    with pytest.raises(ValueError, match="kernel must be two-dimensional"):
        Blur((1, 6, 7), randn(2, 2, 2))
    with pytest.raises(ValueError, match=r"or \(C, D, H, W\) of a volume"):
        Blur((6, 7), randn(2, 2))
    with pytest.raises(ValueError, match="divisor of the volume size, got factor=2 for depth 5"):
        Downsample(SHAPE, 2)
    with pytest.raises(ValueError, match="divisor of the volume size"):
        Downsample((1, 4, 4, 4), (2, 2))
    with pytest.raises(ValueError, match="by 'area' or a kernel"):
        Downsample((1, 4, 4, 4), 2, kernel="bicubic")
    with pytest.raises(TypeError, match="or one for each axis"):
        Downsample((1, 4, 4, 4), (2, 2, 1.5))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="factor must be an integer, got"):
        Downsample((1, 4, 4), (2, 2))
