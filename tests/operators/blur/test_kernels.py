"""Blur kernels and point spread functions."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
from helpers import randn
from scipy.special import j1
from torch.testing import assert_close

from invdiff.operators import (
    Blur,
    defocus_kernel,
    gaussian_kernel,
    motion_kernel,
    psf_kernel,
)
from invdiff.operators.blur.psf import zernike
from invdiff.operators.blur.separable import Separable


class TestKernels:
    def test_gaussian(self) -> None:
        kernel = gaussian_kernel(1.5)
        assert (kernel.shape, kernel.dtype) == ((13, 13), torch.float64)
        assert_close(kernel.sum(), torch.tensor(1.0, dtype=torch.float64))
        impulse = np.zeros((13, 13))
        impulse[6, 6] = 1
        expected = torch.from_numpy(scipy.ndimage.gaussian_filter(impulse, 1.5, radius=6))
        assert_close(kernel, expected)
        assert isinstance(Blur((1, 16, 16), kernel, boundary="zero").convolution, Separable)

    def test_gaussian_of_given_size(self) -> None:
        assert gaussian_kernel(3.0, 61).shape == (61, 61)

    def test_motion(self) -> None:
        kernel = motion_kernel(7, 0.0)
        expected = torch.zeros(7, 7, dtype=torch.float64)
        expected[3] = 1 / 7
        assert_close(kernel, expected)
        assert_close(motion_kernel(7, 90.0), expected.T, atol=1e-12, rtol=0)
        rising = motion_kernel(9, 45.0)  # Counter-clockwise: from the lower left to the upper right.
        assert rising.flip(0).diagonal().sum() > 2 * rising.diagonal().sum()
        assert motion_kernel(5, 0.0, 1.0)[2, 0] == motion_kernel(5, 0.0, 1.0).max()
        assert_close(motion_kernel(5, 0.0, -1.0), motion_kernel(5, 0.0, 1.0).flip(1))
        for angle in (17.0, 45.0, 200.0):
            assert_close(motion_kernel(9, angle, 0.4).sum(), torch.tensor(1.0, dtype=torch.float64))

    @pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
    def test_rejects_sigma(self, sigma: float) -> None:
        with pytest.raises(ValueError, match="sigma must be positive and finite"):
            gaussian_kernel(sigma)

    @pytest.mark.parametrize("size", [0, -3, 4, 2.5])
    def test_rejects_size(self, size: Any) -> None:
        with pytest.raises(ValueError, match="size must be"):
            gaussian_kernel(1.0, size)
        with pytest.raises(ValueError, match="size must be"):
            motion_kernel(size, 0.0)

    def test_rejects_motion(self) -> None:
        with pytest.raises(ValueError, match="angle must be finite"):
            motion_kernel(5, math.nan)
        with pytest.raises(ValueError, match=r"direction must lie in \[-1, 1\], got 1.5"):
            motion_kernel(5, 0.0, 1.5)


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
