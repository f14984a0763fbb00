"""Blurs, against other libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
import torch.nn.functional as F
from helpers import norm, randn
from operator_checks import assert_near, check_adjoint, outputs
from torch import Tensor
from torch.testing import assert_close

from invdiff.linalg import conjugate_gradients, dense_matrix
from invdiff.operators import (
    Blur,
    LinearOperator,
    VaryingBlur,
    defocus_kernel,
    gaussian_kernel,
    motion_kernel,
)
from invdiff.operators.blur.banded_product import SeparableProduct
from invdiff.operators.blur.boundaries import BOUNDARIES, SCIPY_MODES, Border
from invdiff.operators.blur.convolution import CircularConvolution, PaddedConvolution
from invdiff.operators.blur.mirrored_blur import CosineConvolution
from invdiff.operators.blur.separable import Separable


class TestBlur:
    @pytest.mark.parametrize("boundary", BOUNDARIES)
    @pytest.mark.parametrize("size", [(3, 5), (4, 2), (3, 4), (1, 1), (8, 11), (7, 1)])
    @pytest.mark.parametrize("separable", [False, True])
    def test_agrees_with_scipy(self, boundary: str, size: tuple[int, int], separable: bool) -> None:
        kernel = randn(size[0], 1) @ randn(1, size[1], seed=1) if separable else randn(*size)
        x = randn(2, 3, 8, 11)
        expected = scipy.ndimage.convolve(x.numpy(), kernel.numpy()[None, None], mode=SCIPY_MODES[boundary])
        if boundary == "valid":
            rows, columns = (slice((n - 1) // 2, (n - 1) // 2 + side - n + 1) for n, side in zip(size, (8, 11), strict=True))
            expected = expected[..., rows, columns]
        assert_close(Blur((3, 8, 11), kernel, boundary=boundary)(x), torch.from_numpy(expected))

    def test_solves_separable_kernels_in_closed_form(self) -> None:
        kernel = torch.tensor([0.2, 0.5, 0.3]).outer(torch.tensor([0.6, 0.4]))  # In float32: of rank one up to its rounding.
        assert isinstance(Blur((1, 8, 8), kernel, boundary="reflect").convolution, Separable)
        kernel[0, 0] *= 1.001
        assert isinstance(Blur((1, 8, 8), kernel, boundary="reflect").convolution, PaddedConvolution)

    @pytest.mark.parametrize("boundary", ["reflect", "zero"])
    def test_solves_by_conjugate_gradients_what_the_matrix_gives(self, boundary: str) -> None:
        kernel = randn(3, 3) + 6 * torch.eye(3)
        op = Blur((1, 24, 24), kernel, boundary=boundary)
        matrix = dense_matrix(op.forward, op.in_shape, dtype=torch.float64, device=torch.device("cpu"))
        v = outputs(op)
        expected = torch.linalg.solve(matrix @ matrix.T + 0.1 * torch.eye(576, dtype=torch.float64), v.flatten(1).T).T
        assert_near(op.solve(v, 0.1).flatten(1), expected, 1e-9)

    @pytest.mark.parametrize("boundary", ["reflect", "zero"])
    def test_solves_in_fewer_products_than_without_a_preconditioner(self, boundary: str) -> None:
        kernel = randn(7, 7).abs()
        op, products = PaddedConvolution((1, 32, 32), kernel / kernel.sum(), boundary), [0, 0]
        v, lam = outputs(op), 1e-3

        def counted(which: int, w: Tensor) -> Tensor:
            products[which] += 1
            return PaddedConvolution.adjoint(op, w)

        vars(op)["adjoint"] = lambda w: counted(0, w)
        solved = op.solve(v, lam)
        plain = conjugate_gradients(lambda w: op.forward(counted(1, w)) + lam * w, v, rtol=1e-12)
        assert_near(solved, plain, 1e-8)
        assert products[0] < 0.7 * products[1], products

    @pytest.mark.parametrize("size", [(5, 6), (4, 1), (5, 5), (1, 6)])
    @pytest.mark.parametrize("boundary", ["reflect", "zero"])
    def test_adjoint_of_kernels_as_large_as_the_image(self, boundary: str, size: tuple[int, int]) -> None:
        check_adjoint(PaddedConvolution((1, 5, 6), randn(*size), boundary))

    def test_does_not_normalize(self) -> None:
        ones = torch.ones(1, 1, 6, 6)
        assert_close(Blur((1, 6, 6), torch.full((2, 2), 0.5))(ones), 2 * ones)

    @pytest.mark.parametrize(
        ("kernel", "message"),
        [
            (torch.ones(3), r"kernel must be two-dimensional and not empty, got shape \(3,\)"),
            (torch.ones(7, 3), "got kernel 7 x 3 for height 6, width 8"),
            (torch.tensor([[1.0, math.inf]]), "kernel must be finite, got 1 NaN"),
            (torch.tensor([[1.0, -1.0]]), "must not sum to zero, got sum 0"),
            (torch.zeros(3, 3), "must not sum to zero, got sum 0"),
        ],
    )
    def test_rejects_kernel(self, kernel: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Blur((3, 6, 8), kernel)

    def test_rejects_boundary_and_shape(self) -> None:
        with pytest.raises(ValueError, match="unknown boundary 'wrap', expected one of circular, reflect, zero"):
            Blur((3, 6, 8), torch.ones(1, 1), boundary="wrap")
        with pytest.raises(ValueError, match=r"Blur: in_shape must be \(C, H, W\), or .* without the batch axis, got \(6, 8\)"):
            Blur((6, 8), torch.ones(1, 1))


class TestSeparable:
    @pytest.mark.parametrize(("left", "right", "name"), [((9, 8), (4, 4), "left"), ((2, 8), (4, 5), "right")])
    def test_rejects_shapes(self, left: tuple[int, int], right: tuple[int, int], name: str) -> None:
        with pytest.raises(ValueError, match=f"Separable: {name} must have"):
            Separable((1, 8, 4), torch.ones(left), torch.ones(right))


RING = torch.tensor([[0.1, 0.2, 0.1], [0.2, -0.1, 0.2], [0.1, 0.2, 0.1]], dtype=torch.float64)  # Gains of either sign.


def check_solve(op: LinearOperator, rtol: float = 1e-9) -> None:
    v = randn(2, *op.out_shape)
    w = op.solve(v, 1e-2)
    assert (norm(op(op.adjoint(w)) + 1e-2 * w - v) <= rtol * norm(v)).all()


class TestBoundaries:
    @pytest.mark.parametrize("boundary", BOUNDARIES)
    @pytest.mark.parametrize("size", [(3, 5), (4, 2), (3, 4), (1, 1), (8, 11), (7, 1), (1, 6)])
    @pytest.mark.parametrize("separable", [False, True])
    def test_agree_with_scipy(self, boundary: str, size: tuple[int, int], separable: bool) -> None:
        kernel = randn(size[0], 1) @ randn(1, size[1], seed=1) if separable else randn(*size)
        x = randn(2, 3, 8, 11)
        op = Blur((3, 8, 11), kernel, boundary=boundary)
        if boundary == "valid":
            expected = np.stack([[scipy.signal.convolve2d(c, kernel, "valid") for c in image] for image in x.numpy()])
        else:
            expected = scipy.ndimage.convolve(x.numpy(), kernel.numpy()[None, None], mode=SCIPY_MODES[boundary])
        assert op.out_shape == expected.shape[1:]
        assert_close(op(x), torch.from_numpy(expected))
        check_adjoint(op)

    @pytest.mark.parametrize("size", [(5, 6), (4, 1), (5, 5), (1, 6)])
    @pytest.mark.parametrize("boundary", BOUNDARIES)
    def test_fold_is_the_adjoint_of_extend(self, boundary: str, size: tuple[int, int]) -> None:
        border = Border(boundary, (5, 6), size)
        x, z = randn(2, 5, 6), randn(2, *border.torus, seed=1)
        assert_close((border.extend(x) * z).sum(), (x * border.fold(z)).sum())
        y = randn(2, *border.out, seed=2)
        assert_close((border.crop(z) * y).sum(), (z * border.embed(y)).sum())

    def test_names_of_scipy(self) -> None:
        given = {name: mode for name, mode in SCIPY_MODES.items() if name != "valid"}
        wanted = {"circular": "wrap", "reflect": "mirror", "zero": "constant", "symmetric": "reflect", "replicate": "nearest"}
        assert given == wanted

    def test_structure_is_used(self) -> None:
        def kind(kernel: Tensor, boundary: str) -> type:
            op = Blur((1, 16, 18), kernel, boundary=boundary)
            assert op.closed_form == (type(op.convolution) is not PaddedConvolution)
            return type(op.convolution)

        disc, gaussian, shake = defocus_kernel(2.3), gaussian_kernel(1.0), motion_kernel(7, 30.0)
        assert {b: kind(gaussian, b) for b in BOUNDARIES} == {
            b: CircularConvolution if b == "circular" else Separable for b in BOUNDARIES
        }
        assert kind(disc, "symmetric") is kind(disc.float(), "symmetric") is kind(RING, "symmetric") is CosineConvolution
        assert kind(disc, "reflect") is kind(disc, "replicate") is kind(disc, "valid") is PaddedConvolution
        assert kind(shake, "symmetric") is kind(disc[1:], "symmetric") is PaddedConvolution

    @pytest.mark.parametrize(
        "kernel", [defocus_kernel(3.4), RING, defocus_kernel(3.4).float()], ids=["disc", "ring", "float32"]
    )
    def test_cosine_transform_solves_in_closed_form(self, kernel: Tensor) -> None:
        op = Blur((2, 33, 28), kernel, boundary="symmetric")
        assert isinstance(op.convolution, CosineConvolution)
        check_solve(op)
        svd, x = op.svd, randn(2, 2, 33, 28)
        assert svd is not None
        assert (norm(svd.measured(op(x)) - svd.singular * svd.analyze(x)) <= 1e-12 * norm(x)).all()

    @pytest.mark.parametrize("boundary", ["reflect", "zero", "symmetric", "replicate", "valid"])
    def test_solve_iteratively(self, boundary: str) -> None:
        op = Blur((1, 26, 27), randn(3, 4).abs() + 9 * F.pad(torch.ones(1, 1).double(), (2, 1, 1, 1)), boundary=boundary)
        assert math.prod(op.out_shape) > 512
        assert not op.closed_form
        check_solve(op)

    def test_noise_can_be_a_model(self) -> None:
        op = Blur((1, 4, 4), torch.ones(1, 1), sigma_y=0.3)
        assert Blur((1, 4, 4), torch.ones(1, 1), noise=op.noise).noise is op.noise
        with pytest.raises(ValueError, match="Give sigma_y or noise, not both"):
            Blur((1, 4, 4), torch.ones(1, 1), sigma_y=0.1, noise=op.noise)


class TestSeparableProduct:
    @pytest.mark.parametrize("shape", [(200, 260), (260, 200), (192, 800), (257, 257)])
    def test_tiles_give_the_product(self, shape: tuple[int, int]) -> None:
        i, j = torch.arange(shape[0]).unsqueeze(1) * (shape[1] / shape[0]), torch.arange(shape[1])
        left = torch.where((i - j).abs() < 6, randn(*shape), 0)
        left[40:90:3] = 0
        left[:3, -4:] = randn(3, 4, seed=3)  # Around the corner, as a circular blur reaches.
        right = randn(90, 70, seed=4)
        product = SeparableProduct(left, right)
        assert product.tiles[0] is not None
        assert product.transposed[0] is not None
        assert product.tiles[1] is None
        x, y = randn(2, 3, shape[1], 70), randn(2, 3, shape[0], 90)
        assert_close(product.forward(x), left @ x @ right.T)
        assert_close(product.adjoint(y), left.T @ y @ right)

    def test_tiles_of_zeros(self) -> None:
        product = SeparableProduct(torch.zeros(100, 90), torch.eye(70))
        assert product.tiles[0] is not None
        assert torch.equal(product.forward(torch.ones(1, 90, 70)), torch.zeros(1, 100, 70))

    def test_blur_takes_tiles_where_the_image_is_large(self) -> None:
        op = Blur((1, 256, 200), gaussian_kernel(2.0))
        assert op.product is not None
        assert op.product.tiles[0] is not None
        assert op.product.tiles[1] is not None
        x = randn(1, 1, 256, 200)
        assert_close(op(x), op.convolution(x))
        assert_close(op.adjoint(x), op.convolution.adjoint(x))

    def test_long_kernels_are_applied_by_fourier_transforms_of_fast_sizes(self) -> None:
        kernel = gaussian_kernel(4.0, 33)
        assert Blur((1, 128, 96), kernel).product is None
        slow = Blur((1, 127, 96), kernel)
        assert slow.product is not None
        x = randn(1, 1, 127, 96)
        assert_close(slow(x), slow.convolution(x))


class TestVaryingBlur:
    kernels = randn(3, 3, 4).abs()

    @pytest.mark.parametrize("boundary", BOUNDARIES)
    def test_agrees_with_scipy(self, boundary: str) -> None:
        x, weights = randn(2, 3, 8, 11), randn(3, 8, 11, seed=1)
        op = VaryingBlur((3, 8, 11), self.kernels, weights, boundary=boundary)
        expected = np.zeros((2, *op.out_shape))
        for kernel, weight in zip(self.kernels.numpy(), weights.numpy(), strict=True):
            if boundary == "valid":
                expected += scipy.signal.convolve(weight * x.numpy(), kernel[None, None], "valid")
            else:
                expected += scipy.ndimage.convolve(weight * x.numpy(), kernel[None, None], mode=SCIPY_MODES[boundary])
        assert_close(op(x), torch.from_numpy(expected))
        check_adjoint(op)

    def test_a_point_becomes_the_kernel_of_its_place(self) -> None:
        weights = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
        x[0, 0, 4, 5] = 1
        y = VaryingBlur((1, 9, 9), self.kernels, weights, boundary="zero")(x)
        assert_close(y[0, 0, 3:6, 3:7], torch.einsum("k,kij->ij", weights[:, 4, 5], self.kernels))

    def test_one_kernel_is_a_blur(self) -> None:
        x = randn(1, 2, 8, 9)
        for boundary in BOUNDARIES:
            op = VaryingBlur((2, 8, 9), self.kernels[:1], torch.ones(1, 8, 9), boundary=boundary)
            assert_close(op(x), Blur((2, 8, 9), self.kernels[0], boundary=boundary)(x))

    @pytest.mark.parametrize("boundary", ["circular", "symmetric"])
    def test_solves_in_fewer_products_than_without_a_preconditioner(self, boundary: str) -> None:
        ramp = torch.linspace(0.2, 0.8, 24, dtype=torch.float64).expand(24, 24)
        kernels = torch.stack([gaussian_kernel(sigma, 9) for sigma in (0.8, 1.2)])
        op, products = VaryingBlur((1, 24, 24), kernels, torch.stack([ramp, 1 - ramp]), boundary=boundary), [0]
        v = randn(1, 1, 24, 24, dtype=torch.float32)

        def counted(w: Tensor) -> Tensor:
            products[0] += 1
            return VaryingBlur.adjoint(op, w)

        vars(op)["adjoint"] = counted
        solved = op.solve(v, 1e-2)
        preconditioned = products[0]
        vars(op)["precondition"] = lambda w, lam: w
        assert_close(op.solve(v, 1e-2), solved, rtol=0, atol=1e-3)
        assert preconditioned < 0.7 * (products[0] - preconditioned), (preconditioned, products)

    @pytest.mark.parametrize(
        ("kernels", "weights", "error", "message"),
        [
            (
                torch.ones(3, 3),
                torch.ones(1, 8, 8),
                ValueError,
                r"kernels must have shape \(K, h, w\) with K >= 1, got shape \(3, 3\)",
            ),
            (torch.ones(0, 3, 3), torch.ones(0, 8, 8), ValueError, "with K >= 1"),
            (torch.ones(2, 3, 3), torch.ones(1, 8, 8), ValueError, r"weights must have .*\(2, 8, 8\).*got shape \(1, 8, 8\)"),
            (torch.ones(1, 3, 9), torch.ones(1, 8, 8), ValueError, "VaryingBlur: the kernel must not be larger"),
            (torch.ones(1, 3, 3), torch.full((1, 8, 8), math.nan), ValueError, "weights must be finite, got 64 NaN"),
            (torch.ones(1, 3, 3), torch.ones(1, 8, 8) * 1j, TypeError, "weights must be real"),
        ],
    )
    def test_rejects(self, kernels: Tensor, weights: Tensor, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            VaryingBlur((1, 8, 8), kernels, weights, boundary="zero")

    def test_rejects_boundary(self) -> None:
        with pytest.raises(ValueError, match="VaryingBlur: unknown boundary 'wrap', expected one of circular"):
            VaryingBlur((1, 8, 8), torch.ones(1, 3, 3), torch.ones(1, 8, 8), boundary="wrap")
