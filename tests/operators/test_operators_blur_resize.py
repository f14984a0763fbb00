"""Blur and resizing against other libraries, and against what optics and arithmetic say."""

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
from scipy.special import j1
from torch import Tensor
from torch.testing import assert_close

from invdiff.operators import (
    Blur,
    Downsample,
    LinearOperator,
    Resize,
    VaryingBlur,
    defocus_kernel,
    gaussian_kernel,
    motion_kernel,
    psf_kernel,
)
from invdiff.operators.blur.banded_product import SeparableProduct
from invdiff.operators.blur.boundaries import BOUNDARIES, SCIPY_MODES, Border
from invdiff.operators.blur.convolution import CircularConvolution, PaddedConvolution
from invdiff.operators.blur.mirrored_blur import CosineConvolution
from invdiff.operators.blur.psf import zernike
from invdiff.operators.blur.separable import Separable
from invdiff.operators.blur.strided_convolution import SubsampledConvolution
from invdiff.operators.core.autograd import with_adjoint
from invdiff.operators.resampling.resize import RESIZE_KERNELS, resize_matrix

RING = torch.tensor([[0.1, 0.2, 0.1], [0.2, -0.1, 0.2], [0.1, 0.2, 0.1]], dtype=torch.float64)  # Gains of either sign.


def check_solve(op: LinearOperator, rtol: float = 1e-9) -> None:
    v = randn(2, *op.out_shape)
    w = op.solve(v, 1e-2)
    assert (norm(op(op.adjoint(w)) + 1e-2 * w - v) <= rtol * norm(v)).all()


def check_adjoint(op: LinearOperator) -> None:
    x, y = randn(2, *op.in_shape, seed=1), randn(2, *op.out_shape, seed=2)
    gap = (op(x) * y).flatten(1).sum(1) - (x * op.adjoint(y)).flatten(1).sum(1)
    assert (gap.abs() <= 1e-12 * norm(op(x)) * norm(y)).all()


class TestGaussianKernel:
    @pytest.mark.parametrize("angle", [0.0, 25.0, 90.0, 200.0])
    def test_has_the_covariance(self, angle: float) -> None:
        kernel = gaussian_kernel((3.0, 1.5), 41, angle=angle)
        assert_close(kernel.sum(), torch.tensor(1.0, dtype=torch.float64))
        offsets = torch.arange(41, dtype=torch.float64) - 20
        right, up = offsets.expand(41, 41), -offsets.unsqueeze(1).expand(41, 41)
        found = [float((kernel * a * b).sum()) for a, b in ((right, right), (right, up), (up, up))]
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        expected = [9 * cos**2 + 2.25 * sin**2, (9 - 2.25) * cos * sin, 9 * sin**2 + 2.25 * cos**2]
        assert found == pytest.approx(expected, abs=1e-6)

    def test_agrees_with_scipy_along_the_axes(self) -> None:
        impulse = np.zeros((21, 21))
        impulse[10, 10] = 1
        expected = torch.from_numpy(scipy.ndimage.gaussian_filter(impulse, (1.2, 2.5), radius=10))
        assert_close(gaussian_kernel((2.5, 1.2)), expected)
        assert_close(gaussian_kernel((1.2, 2.5), angle=90.0), expected)

    def test_one_deviation_is_two_equal_ones(self) -> None:
        assert_close(gaussian_kernel(1.5), gaussian_kernel((1.5, 1.5), angle=33.0))

    def test_rejects(self) -> None:
        with pytest.raises(ValueError, match="must be positive and finite"):
            gaussian_kernel((1.0, 0.0))
        with pytest.raises(ValueError, match="a number or two, along and across"):
            gaussian_kernel((1.0, 2.0, 3.0))
        with pytest.raises(ValueError, match="angle must be finite"):
            gaussian_kernel(1.0, angle=math.inf)


class TestDefocusKernel:
    @pytest.mark.parametrize("radius", [0.7, 1.0, 2.3, 5.5, 7.25])
    def test_is_the_share_of_the_area(self, radius: float) -> None:
        kernel = defocus_kernel(radius)
        size, fine = len(kernel), 200
        assert size == 2 * math.ceil(radius - 0.5) + 1
        grid = (np.arange(size * fine) + 0.5) / fine - size / 2
        inside = (grid[:, None] ** 2 + grid**2 <= radius**2).reshape(size, fine, size, fine).mean((1, 3))
        assert_close(kernel, torch.from_numpy(inside) / (math.pi * radius**2), atol=2e-4 / radius**2, rtol=0)
        assert_close(kernel.sum(), torch.tensor(1.0, dtype=torch.float64), rtol=1e-14, atol=0)
        for mirrored in (kernel.flip(0), kernel.flip(1), kernel.T):
            assert_close(kernel, mirrored, atol=1e-16, rtol=1e-13)

    def test_by_hand(self) -> None:
        assert_close(defocus_kernel(1.0)[1, 1], torch.tensor(1 / math.pi, dtype=torch.float64))  # Its pixel lies inside.
        # What of the unit disc lies right of a half, above a half: a sector of 30 degrees less two triangles.
        corner = math.pi / 12 - (math.sqrt(3) - 1) / 4
        assert_close(defocus_kernel(1.0)[0, 2], torch.tensor(corner / math.pi, dtype=torch.float64))
        assert defocus_kernel(0.5).tolist() == [[1.0]]

    @pytest.mark.parametrize("radius", [0.0, -1.0, math.nan, math.inf])
    def test_rejects(self, radius: float) -> None:
        with pytest.raises(ValueError, match="radius must be positive and finite"):
            defocus_kernel(radius)


class TestPsfKernel:
    # Pixels of a tenth of the radius of the dark ring, in micrometres.
    lens: dict[str, float] = {"wavelength": 0.5, "numerical_aperture": 0.25, "pixel_size": 0.1 * 0.60983 * 0.5 / 0.25}  # noqa: RUF012

    @pytest.mark.parametrize("size", [41, 301])
    def test_is_the_airy_pattern(self, size: int) -> None:
        kernel = psf_kernel(size, {}, **cast(Any, self.lens))
        offsets = (np.arange(size) - size // 2) * self.lens["pixel_size"]
        v = np.hypot(offsets[:, None], offsets) * 2 * math.pi * 0.25 / 0.5
        v[size // 2, size // 2] = 1e-9
        airy = torch.from_numpy((2 * j1(v) / v) ** 2)
        assert_close(kernel / kernel.max(), airy, atol=3e-5, rtol=0)
        # The first dark ring.
        assert kernel[size // 2, size // 2 + 10] < 1e-6 * kernel.max()

    @pytest.mark.parametrize("coefficients", [{4: 0.05}, {7: 0.05, 11: -0.03}, {6: 0.05}, {22: 0.04}, {1: 0.4}])
    def test_strehl_ratio(self, coefficients: dict[int, float]) -> None:
        sharp, blurred = (psf_kernel(301, c, **cast(Any, self.lens)) for c in ({}, coefficients))
        variance = sum(a**2 for j, a in coefficients.items() if j > 1)
        assert float(blurred.max() / sharp.max()) == pytest.approx(math.exp(-((2 * math.pi) ** 2) * variance), abs=1e-3)

    def test_tilt_moves_the_image_right_and_up(self) -> None:
        lens = {"wavelength": 0.5, "numerical_aperture": 0.25, "pixel_size": 0.2}
        kernel = psf_kernel(51, {2: 0.5, 3: 0.25}, **cast(Any, lens))  # By lambda / NA = 10 pixels, and by half of that.
        assert divmod(int(kernel.argmax()), 51) == (25 - 5, 25 + 10)
        # Far: the pupil is sampled finely enough for the steep wavefront.
        far = psf_kernel(51, {2: 20.0}, wavelength=0.5, numerical_aperture=0.25, pixel_size=4.0)
        assert divmod(int(far.argmax()), 51) == (25, 25 + 20)

    def test_depends_on_ratios_of_lengths_alone(self) -> None:
        kernel = psf_kernel(9, {4: 0.1}, wavelength=0.5, numerical_aperture=0.25, pixel_size=0.2)
        assert_close(kernel, psf_kernel(9, {4: 0.1}, wavelength=500e-9, numerical_aperture=0.25, pixel_size=200e-9))
        assert_close(kernel, psf_kernel(9, {4: 0.1}, wavelength=0.5, numerical_aperture=0.5, pixel_size=0.1))

    def test_samples_average_over_the_pixel(self) -> None:
        lens = {"wavelength": 0.5, "numerical_aperture": 0.25}
        fine = psf_kernel(45, {8: 0.1}, pixel_size=0.2, **cast(Any, lens))
        coarse = fine.reshape(9, 5, 9, 5).sum((1, 3))
        assert_close(psf_kernel(9, {8: 0.1}, pixel_size=1.0, samples=5, **cast(Any, lens)), coarse)

    def test_rejects(self) -> None:
        for name in self.lens:
            with pytest.raises(ValueError, match=f"{name} must be positive and finite, got -1"):
                psf_kernel(9, {}, **cast(Any, self.lens | {name: -1.0}))
        with pytest.raises(ValueError, match="size must be a positive odd integer"):
            psf_kernel(8, {}, **cast(Any, self.lens))
        with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
            psf_kernel(9, {}, samples=0, **cast(Any, self.lens))
        with pytest.raises(ValueError, match="coefficients must be finite"):
            psf_kernel(9, {4: math.nan}, **cast(Any, self.lens))
        with pytest.raises(ValueError, match=r"count from 1 \(piston\), got 0"):
            psf_kernel(9, {0: 0.1}, **cast(Any, self.lens))
        with pytest.raises(TypeError, match=r"must be an integer, got 4\.5"):
            psf_kernel(9, cast(Any, {4.5: 0.1}), **cast(Any, self.lens))


def test_numbers_of_numpy_are_numbers() -> None:
    assert_close(gaussian_kernel(np.float32(2), np.int64(9)), gaussian_kernel(2.0, 9))  # type: ignore[arg-type]


class TestZernike:
    def test_is_orthonormal_on_the_disc(self) -> None:
        nodes, weights = np.polynomial.legendre.leggauss(20)
        rho = torch.from_numpy((nodes + 1) / 2).unsqueeze(1).expand(20, 40)
        theta = (torch.arange(40, dtype=torch.float64) * (2 * math.pi / 40)).expand(20, 40)
        values = torch.stack([zernike(j, rho, theta) for j in range(1, 29)])
        area = rho * torch.from_numpy(weights).unsqueeze(1) / 40
        products = torch.einsum("aij,bij,ij->ab", values, values, area)
        assert_close(products, torch.eye(28, dtype=torch.float64), atol=1e-12, rtol=0)

    @pytest.mark.parametrize(
        ("index", "formula"),
        [
            (1, lambda r, _: torch.ones_like(r)),
            (2, lambda r, t: 2 * r * t.cos()),
            (3, lambda r, t: 2 * r * t.sin()),
            (4, lambda r, _: 3**0.5 * (2 * r**2 - 1)),
            (5, lambda r, t: 6**0.5 * r**2 * (2 * t).sin()),
            (8, lambda r, t: 8**0.5 * (3 * r**3 - 2 * r) * t.cos()),
            (9, lambda r, t: 8**0.5 * r**3 * (3 * t).sin()),
            (11, lambda r, _: 5**0.5 * (6 * r**4 - 6 * r**2 + 1)),
        ],
    )
    def test_as_tabulated_by_noll(self, index: int, formula: Any) -> None:
        rho, theta = randn(50).abs() % 1, randn(50, seed=1)
        assert_close(zernike(index, rho, theta), formula(rho, theta))


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
        assert (norm(svd.measured(op(x)) - svd.singular * svd.analyse(x)) <= 1e-12 * norm(x)).all()

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
    @pytest.mark.parametrize("shape", [(100, 130), (130, 100), (96, 400), (129, 129)])
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


class TestWithAdjoint:
    matrix = randn(3, 4)

    def map(self, x: Tensor) -> Tensor:
        return with_adjoint(x, lambda v: v @ self.matrix.T, lambda w: w @ self.matrix)

    def test_derivatives(self) -> None:
        x = randn(1, 4).requires_grad_()
        assert torch.autograd.gradcheck(self.map, x, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(lambda v: self.map(v) ** 2, x)
        assert_close(torch.func.jacrev(self.map)(x[0].detach()), self.matrix)
        assert_close(torch.func.jacfwd(self.map)(x[0].detach()), self.matrix)

    def test_takes_the_adjoint_it_is_given(self) -> None:
        x = randn(4).requires_grad_()
        with_adjoint(x, lambda v: v, lambda w: 3 * w).sum().backward()
        assert torch.equal(cast(Tensor, x.grad), torch.full((4,), 3.0).double())


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
                r"kernels must be \(K, h, w\), one at least, got shape \(3, 3\)",
            ),
            (torch.ones(0, 3, 3), torch.ones(0, 8, 8), ValueError, "one at least"),
            (torch.ones(2, 3, 3), torch.ones(1, 8, 8), ValueError, r"weights must be \(2, 8, 8\).*got shape \(1, 8, 8\)"),
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
        row = resize_matrix(8, 16, "bicubic")[7]  # A quarter of a pixel beyond the centre of pixel 3.
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
            centre = (i + 0.5) * factor - 0.5
            first = math.floor(centre - width / 2)
            pixels = np.arange(first, first + width + 2)
            t = np.abs(centre - pixels) / factor
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
        assert (norm(svd.measured(op(x)) - svd.singular * svd.analyse(x)) <= 1e-12 * norm(x)).all()

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


class TestDownsample:
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
