"""An operator of one channel or of one slice, applied to all of them."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from helpers import randn
from torch.testing import assert_close

from invdiff.linalg import dense_matrix
from invdiff.operators import (
    JPEG,
    MRI,
    Blur,
    Downsample,
    Function,
    GaussianNoise,
    Identity,
    LinearOperator,
    Mask,
    Mosaic,
    Operator,
    ParallelBeamCT,
    gaussian_kernel,
    per_channel,
    per_item,
    per_slice,
    whiten,
)

SHAPE, COUNT = (3, 8, 8), 4
OPS = [
    Blur(SHAPE, gaussian_kernel(0.8, 3)),
    Downsample(SHAPE, 2),
    Mosaic(SHAPE, "RGGB"),
    MRI((2, 8, 8), torch.tensor([1, 0, 1, 1, 1, 0, 1, 1])),
    ParallelBeamCT((1, 8, 8), [0.0, 60.0, 120.0]),
    JPEG(SHAPE, 50),
]


@pytest.mark.parametrize("op", OPS, ids=lambda op: type(op).__name__)
def test_every_slice_is_measured_as_an_image(op: Operator) -> None:
    volume = per_slice(op, COUNT, noise=GaussianNoise(0.1))
    c, *sides = op.in_shape
    x = randn(2, c, COUNT, *sides)
    assert volume.in_shape == (c, COUNT, *sides)
    assert volume.out_shape == (op.out_shape[0], COUNT, *op.out_shape[1:])
    assert volume.sigma_y == 0.1
    y = volume(x)
    for k in range(COUNT):
        assert_close(y[:, :, k], op(x[:, :, k]))
    if isinstance(volume, LinearOperator) and isinstance(op, LinearOperator):
        assert volume.closed_form == op.closed_form
        assert_close(volume.pinv(y)[:, :, 1], op.pinv(y[:, :, 1]))
        assert_close(volume.solve(y, 0.3)[:, :, 1], op.solve(y[:, :, 1], 0.3))


@pytest.mark.parametrize("per_part", [per_channel, per_slice])
@pytest.mark.parametrize("kind", ["pixel", "frequency", "decimation"])
def test_variances_and_power_of_the_basis(per_part, kind: str) -> None:
    shape = (1, 4, 6)
    ops = {"pixel": Mask(randn(4, 6) > 0, shape), "frequency": Blur(shape, randn(3, 2)), "decimation": Downsample(shape, 2)}
    op = per_part(ops[kind], 3)
    svd = op.svd
    assert svd.kind == kind
    values = 1 + randn(2, *svd.shape).square()
    basis = dense_matrix(svd.analyze, op.in_shape, dtype=torch.float64, device=torch.device("cpu"))
    cov = torch.einsum("ki,bk,kj->bij", basis, values.flatten(1), basis)
    if kind != "frequency":  # There the mean over all frequencies, which is what planes of opposite ones leave.
        assert_close(svd.diagonal(values).flatten(1), cov.diagonal(dim1=1, dim2=2))
    assert svd.diagonal(values).shape[1:] == op.in_shape
    if kind != "pixel":
        waves = dense_matrix(
            lambda x: torch.view_as_real(torch.fft.fft2(x, norm="ortho")),
            op.in_shape,
            dtype=torch.float64,
            device=torch.device("cpu"),
        )
        rows = waves.reshape(*op.in_shape, 2, -1)
        power = torch.einsum("...i,bij,...j->b...", rows, cov, rows).sum(-1)
        assert_close(svd.power(values), power[..., : 6 // 2 + 1])


def test_large_ones_keep_their_decomposition() -> None:
    op = per_slice(Blur((3, 40, 40), gaussian_kernel(0.8, 5)), 4)
    assert op.svd is not None
    x = randn(1, *op.in_shape)
    assert_close(op.svd.synthesize(op.svd.singular * op.svd.measured(op(x))), op.adjoint(op(x)))


@pytest.mark.parametrize("per_part", [per_channel, per_slice])
def test_noise_of_its_own_for_every_channel(per_part) -> None:
    part = Blur((1, 5, 6), gaussian_kernel(0.8, 3))
    shape = per_part(part, 3).out_shape
    levels = torch.linspace(0.1, 0.3, shape[0], dtype=torch.float64).reshape(-1, *(1,) * (len(shape) - 1))
    white = cast(LinearOperator, whiten(per_part(part, 3, noise=GaussianNoise(levels))))
    matrix = dense_matrix(white.adjoint, white.out_shape, dtype=torch.float64, device=torch.device("cpu"))
    assert white.svd is not None
    assert_close(white.svd.singular.flatten().sort().values, torch.linalg.svdvals(matrix).sort().values)


def test_an_operator_for_each_item() -> None:
    g = torch.Generator().manual_seed(0)
    masks = [Mask(torch.rand(8, 8, generator=g) < share, SHAPE) for share in (0.3, 0.7)]
    op, x = per_slice(per_item(masks), COUNT), randn(2, 3, COUNT, 8, 8)
    assert op.items == 2
    for b, mask in enumerate(masks):
        assert_close(op(x)[b, :, 2], mask(x[b : b + 1, :, 2])[0])


def test_refuse() -> None:
    with pytest.raises(ValueError, match="Give the noise of all slices"):
        per_slice(Identity(SHAPE, sigma_y=0.1), 3)
    with pytest.raises(ValueError, match="slices must be positive"):
        per_slice(Identity(SHAPE), 0)
    with pytest.raises(ValueError, match="use per_slice"):
        per_channel(Identity(SHAPE), 2)


def test_a_jacobian_of_every_slice() -> None:
    op = per_slice(Function(torch.sin, (2, 3)), COUNT)
    x, v = randn(2, 2, COUNT, 3, seed=1), randn(2, 2, COUNT, 3, seed=2)
    assert_close(op.jacobian(x)(v), x.cos() * v)
    assert "4 slices by Function" in repr(op)
