"""Operators of mrpro: an object with the same interface gives the same numbers, and so does the real one if it is installed."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import pytest
import torch
from helpers import randn
from operator_checks import check_adjoint, check_pinv, check_saved, check_solve, inputs
from torch import Tensor, nn
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.operators import MRI, birdcage_maps, from_mrpro
from invdiff.priors import Complex, Gaussian

SIZE, COILS = (6, 8), 3


class Sampled(nn.Module):
    """Non-uniform samples of coil images ``(other, coils, z, y, x)``, by their sum of exponentials, as mrpro returns them."""

    maps: Tensor
    waves: Tensor

    def __init__(self, count: int = 40, dtype: torch.dtype = torch.complex128) -> None:
        super().__init__()
        height, width = SIZE
        places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).flatten(1).double()
        frequencies = torch.pi * (2 * torch.rand(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1)
        waves = torch.exp(-1j * (frequencies @ places)) / (height * width) ** 0.5
        self.register_buffer("maps", birdcage_maps(COILS, height, width).to(dtype))
        self.register_buffer("waves", waves.to(dtype))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        assert x.ndim == 5
        assert x.is_complex()
        return (torch.einsum("ki,ocpi->ocpk", self.waves, (self.maps.unsqueeze(1) * x).flatten(-2)),)

    def adjoint(self, y: Tensor) -> tuple[Tensor]:
        images = torch.einsum("ki,ocpk->ocpi", self.waves.conj(), y).unflatten(-1, SIZE)
        return ((self.maps.conj().unsqueeze(1) * images).sum(1, keepdim=True),)


@pytest.fixture
def op() -> Any:
    return from_mrpro(Sampled(), (2, *SIZE), sigma_y=0.05)


def test_numbers_are_those_of_the_complex_operator(op: Any) -> None:
    x = randn(2, 2, *SIZE, seed=1)
    image = torch.complex(x[:, 0], x[:, 1])
    assert op.out_shape == (1, COILS, 1, 40, 2)
    expected = torch.cat([Sampled()(one.reshape(1, 1, 1, *SIZE))[0] for one in image])
    assert_close(op(x), torch.view_as_real(expected).unsqueeze(1))


def test_laws(op: Any) -> None:
    check_adjoint(op)
    check_pinv(op)
    check_solve(op)
    check_saved(op)


def test_keeps_a_copy_and_the_precision_of_its_tensors() -> None:
    given = Sampled(dtype=torch.complex64)
    op = from_mrpro(given, (2, *SIZE))
    x = inputs(op)
    before = op(x)
    given.waves.zero_()
    assert torch.equal(op(x), before)
    assert before.dtype == x.dtype


def test_samples_of_a_complex_image_have_the_exact_posterior(op: Any) -> None:
    """Of non-uniform samples: mean within Monte Carlo error, and not that of other data."""
    root = randn(48, 48, seed=1) / 8
    real = Gaussian(randn(1, *SIZE, seed=2), root @ root.mT)
    cov = torch.block_diag(root @ root.mT, 0.09 * torch.eye(48, dtype=torch.float64))
    product = Gaussian(torch.cat([real.mean, torch.zeros_like(real.mean)]), cov)
    y = op.measure(product.sample(2, seed=3), seed=4)
    draws = PosteriorSampler(Complex(real, width=0.3), op, steps=30).run(y[:1].float(), num_samples=1000, seed=0).samples
    exact, other = (product.posterior(op, one) for one in (y[:1], y[1:]))
    error = (exact.covariance().diagonal() / 1000).sqrt()
    mean = draws[:, 0].flatten(1).double().mean(0)
    assert ((mean - exact.mean.flatten()) / error).abs().max() < 5
    assert ((mean - other.mean.flatten()) / error).abs().max() > 10


class Wrong(Sampled):
    def adjoint(self, y: Tensor) -> tuple[Tensor]:
        return (2 * super().adjoint(y)[0],)


class Bare(Sampled):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)[0]


class Added(Sampled):
    def forward(self, x: Tensor) -> Any:
        return (super().forward(x)[0] + 1,)


@pytest.mark.parametrize(
    ("given", "shape", "error", "reason"),
    [
        (lambda x: x, (2, *SIZE), TypeError, "has no method adjoint"),
        (Sampled(), (1, *SIZE), ValueError, r"in_shape must be \(2, ..., H, W\)"),
        (Sampled(), (2, 5, 5), ValueError, r"Check in_shape=\(2, 5, 5\)"),
        (Wrong(), (2, *SIZE), ValueError, "adjoint is not the adjoint"),
        (Bare(), (2, *SIZE), TypeError, "expected a tuple of one tensor"),
        (Added(), (2, *SIZE), ValueError, "not linear"),
    ],
    ids=["function", "channels", "size", "adjoint", "no tuple", "affine"],
)
def test_refuse(given: Any, shape: tuple[int, ...], error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        from_mrpro(given, shape)


if importlib.util.find_spec("mrpro") is not None:  # beside the stand-in above, which tells the same

    def test_of_mrpro_itself() -> None:
        """Coils and a grid give the numbers of our own operator, and a radial trajectory exponential sums."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data, operators = (importlib.import_module(f"mrpro.{name}") for name in ("data", "operators"))
            maps = birdcage_maps(COILS, *SIZE).to(torch.complex64)
            coils, grid = operators.SensitivityOp(maps[None, :, None]), operators.FastFourierOp(dim=(-2, -1))
            op, ours = from_mrpro(grid @ coils, (2, *SIZE)), MRI((2, *SIZE), torch.ones(SIZE), coil_maps=maps)
            x = randn(2, 2, *SIZE, seed=1).float()
            assert_close(op(x).reshape(2, *ours.out_shape), ours(x), rtol=1e-4, atol=1e-4)

            height, width = SIZE
            angles, radii = torch.arange(5) * torch.pi / 5, torch.linspace(-0.45, 0.45, 7)
            ky, kx = ((height * radii * angles.sin()[:, None]), (width * radii * angles.cos()[:, None]))
            zero = torch.zeros(1, 1, 1, 1, 1)
            size = data.SpatialDimension(1, height, width)
            path = data.KTrajectory(zero, ky[None, None, None], kx[None, None, None])
            radial = from_mrpro(operators.FourierOp(size, size, path), (2, *SIZE))
            rows, columns = torch.meshgrid(torch.arange(height) - height // 2, torch.arange(width) - width // 2, indexing="ij")
            turns = ky[..., None, None] / height * rows + kx[..., None, None] / width * columns
            image = torch.complex(x[:, 0], x[:, 1])
            sums = (torch.exp(-2j * torch.pi * turns) * image[:, None, None]).sum((-2, -1)) / (height * width) ** 0.5
            assert_close(radial(x).reshape(2, 5, 7, 2), torch.view_as_real(sums), rtol=1e-3, atol=1e-3)
            check_saved(radial)
