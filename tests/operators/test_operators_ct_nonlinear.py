"""Tomography against other libraries and known integrals; cameras that are not linear against Pillow and by hand."""

from __future__ import annotations

import copy
import io
import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers import dot, norm, randn
from PIL import Image
from skimage import data, exposure
from skimage.transform import radon
from torch import Tensor, nn
from torch.testing import assert_close

from invdiff.linalg import dense_matrix
from invdiff.operators import JPEG, Clip, FanBeamCT, Gamma, GaussianNoise, NetworkOperator, ParallelBeamCT, Quantise
from invdiff.operators.transforms.tomography import RayTransform

FAN: dict[str, Any] = {"source_distance": 20.0, "detector_distance": 9.0, "detectors": 12, "detector_spacing": 1.7}


def rays_of(op: RayTransform, angles: Any, *, spacing: float, source: float = math.inf, detector: float = 0.0) -> Any:
    """Return a point and the direction of every ray, ``(2, angles, detectors)``, by the formulas of the documentation."""
    theta = np.deg2rad(np.asarray(angles, dtype=float))[:, None]
    count = op.out_shape[-1]
    s = ((np.arange(count) - (count - 1) / 2) * spacing)[None]
    along, down = np.stack([np.cos(theta), np.sin(theta)]), np.stack([np.sin(theta), -np.cos(theta)])
    if math.isinf(source):
        return s * along + 0 * down, down + 0 * s
    point = -source * down + 0 * s
    direction = s * along + detector * down - point
    return point, direction / np.linalg.norm(direction, axis=0)


def distances(point: Any, direction: Any, centre: tuple[float, float]) -> Any:
    """Return how far every ray passes from ``centre``."""
    x, y = (point[i] - centre[i] for i in (0, 1))
    return np.abs(x * direction[1] - y * direction[0])


def disc(side: int, centre: tuple[float, float], radius: float) -> Tensor:
    """Return the share of every pixel that a disc covers, to 1/64, with ``(x, y)`` from the centre of the image, y upwards."""
    places = (np.arange(8 * side) + 0.5) / 8 - side / 2
    inside = (places[None] - centre[0]) ** 2 + (-places[:, None] - centre[1]) ** 2 <= radius**2
    return torch.from_numpy(inside.reshape(side, 8, side, 8).mean((1, 3)))[None, None]


class TestTomography:
    angles = (0.0, 20.0, 45.0, 77.0, 90.0, 130.0, 180.0, 251.0)
    parallel = ParallelBeamCT((1, 6, 9), angles, detectors=14, detector_spacing=0.83)
    fan = FanBeamCT((1, 6, 9), angles, **FAN)
    both = pytest.mark.parametrize(
        ("op", "geometry"), [(parallel, {"spacing": 0.83}), (fan, {"spacing": 1.7, "source": 20.0, "detector": 9.0})]
    )

    def test_integrals_of_one_pixel_by_hand(self) -> None:
        op = ParallelBeamCT((1, 1, 1), [45.0], detectors=3, detector_spacing=0.25)
        # A square on its corner, cut at a quarter beside its diagonal and on it.
        expected = [2 * (0.5**0.5 - 0.25), 2**0.5, 2 * (0.5**0.5 - 0.25)]
        assert_close(op(torch.ones(1, 1, 1, 1)).flatten(), torch.tensor(expected))

    def test_sums_of_columns_and_rows(self) -> None:
        x = randn(2, 3, 4, 4)
        y = ParallelBeamCT((3, 4, 4), [0.0, 90.0, 180.0, 270.0], detectors=4)(x)
        assert_close(y[:, :, 0], x.sum(-2))
        assert_close(y[:, :, 1], x.sum(-1).flip(-1))  # Upwards.
        assert_close(y[:, :, 2], x.sum(-2).flip(-1))
        assert_close(y[:, :, 3], x.sum(-1))

    def test_a_ray_between_two_pixels_is_shared(self) -> None:
        x = randn(1, 1, 4, 2)
        y = ParallelBeamCT((1, 4, 2), [0.0, 90.0], detectors=3)(x).flatten()
        left, right = x[0, 0].sum(0)
        above, below = x[0, 0, 1].sum(), x[0, 0, 2].sum()
        assert_close(y[:3], torch.stack([left / 2, (left + right) / 2, right / 2]))
        assert_close(y[4], (above + below) / 2)

    @both
    def test_agrees_with_quadrature(self, op: RayTransform, geometry: dict[str, float]) -> None:
        """The image is read along every ray in 30 000 places, which costs an error at the borders of pixels."""
        x = randn(1, *op.in_shape)
        point, direction = rays_of(op, self.angles, **geometry)
        t, step = np.linspace(-25, 35, 30_000, retstep=True)
        row = np.floor(3 - (point[1][..., None] + t * direction[1][..., None])).astype(int)
        column = np.floor(4.5 + point[0][..., None] + t * direction[0][..., None]).astype(int)
        inside = (row >= 0) & (row < 6) & (column >= 0) & (column < 9)
        values = np.where(inside, x[0, 0].numpy()[row.clip(0, 5), column.clip(0, 8)], 0)
        oblique = np.array([angle % 90 != 0 for angle in self.angles])  # Along a border, any side would do.
        assert_close(op(x)[0, 0][oblique], torch.from_numpy(values.sum(-1) * step)[oblique], atol=0.02, rtol=0)

    @both
    def test_the_integral_of_one_is_the_length_within_the_image(self, op: RayTransform, geometry: dict[str, float]) -> None:
        point, direction = rays_of(op, self.angles, **geometry)
        # From one side of the image to the other, in x and in y; within both is inside.
        with np.errstate(divide="ignore"):
            sides = [np.stack([(-h - point[i]) / direction[i], (h - point[i]) / direction[i]]) for i, h in ((0, 4.5), (1, 3.0))]
        enter = np.maximum(sides[0].min(0), sides[1].min(0))
        leave = np.minimum(sides[0].max(0), sides[1].max(0))
        chords = torch.from_numpy((leave - enter).clip(0))
        assert_close(op(torch.ones(1, *op.in_shape, dtype=torch.float64))[0, 0], chords, atol=1e-5, rtol=1e-6)

    def test_agrees_with_scikit_image_on_a_smooth_image(self) -> None:
        """That one interpolates linearly, so that they differ most just beside the axes: by 1.9 % at 91 degrees."""
        side, angles = 65, np.arange(0.0, 180.0, 7.0)
        row, column = np.mgrid[:side, :side] - (side - 1) / 2
        image = np.exp(-((row - 5) ** 2 + (column + 9) ** 2) / 72) - 0.5 * np.exp(
            -((row + 8) ** 2 + 2 * (column - 6) ** 2) / 90
        )
        image[row**2 + column**2 > (side // 2) ** 2] = 0
        expected = torch.from_numpy(radon(image, angles).T.copy())
        actual = ParallelBeamCT((1, side, side), angles, detectors=side)(torch.from_numpy(image)[None, None])[0, 0]
        gap = norm(actual - expected) / norm(expected)
        assert gap.max() < 0.025
        assert gap.median() < 2e-3

    @pytest.mark.parametrize("fanned", [False, True])
    def test_the_shadow_of_a_disc(self, fanned: bool) -> None:
        """A disc off the centre, in a turn of 360 degrees: 2 sqrt(r^2 - d^2) at distance d, but for pixels along its rim."""
        angles, centre, radius = np.arange(0.0, 360.0, 24.0), (13.0, 21.0), 18.0
        geometry: dict[str, float] = {"spacing": 1.0}
        if fanned:
            geometry = {"spacing": 2.1, "source": 120.0, "detector": 90.0}
            op: RayTransform = FanBeamCT(
                (1, 96, 96), angles, source_distance=120, detector_distance=90, detectors=150, detector_spacing=2.1
            )
        else:
            op = ParallelBeamCT((1, 96, 96), angles)
        point, direction = rays_of(op, angles, **geometry)
        expected = 2 * np.sqrt((radius**2 - distances(point, direction, centre) ** 2).clip(0))
        gap = op(disc(96, centre, radius))[0, 0] - torch.from_numpy(expected)
        assert gap.square().mean().sqrt() < 0.25  # Of 36 at the centre.
        assert gap.abs().max() < 5  # Where the shadow ends, it falls from there to 0 within a fraction of a pixel.

    def test_far_from_its_source_a_fan_is_parallel(self) -> None:
        x = randn(2, 1, 6, 9)
        far = FanBeamCT((1, 6, 9), self.angles, source_distance=1e7, detector_distance=0.0, detectors=14, detector_spacing=0.83)
        oblique = [1, 2, 3, 5, 7]  # Elsewhere the smallest slope decides on which side of a border a ray runs.
        assert_close(far(x)[:, :, oblique], self.parallel(x)[:, :, oblique], atol=5e-5, rtol=0)

    def test_pixel_size_is_the_unit_of_length(self) -> None:
        x = randn(1, 1, 6, 9)
        scaled = {name: 0.5 * value if name != "detectors" else value for name, value in FAN.items()}
        assert_close(FanBeamCT((1, 6, 9), self.angles, **scaled, pixel_size=0.5)(x), 0.5 * self.fan(x), atol=1e-6, rtol=1e-6)
        assert_close(
            ParallelBeamCT((1, 6, 9), [20.0], pixel_size=0.5)(x),
            0.5 * ParallelBeamCT((1, 6, 9), [20.0])(x),
            atol=1e-6,
            rtol=1e-6,
        )

    def test_detectors_cover_the_diagonal(self) -> None:
        assert ParallelBeamCT((1, 6, 8), [0.0]).out_shape == (1, 1, 10)
        assert ParallelBeamCT((1, 6, 8), [0.0], detector_spacing=0.5).out_shape == (1, 1, 20)

    def test_derivatives_in_both_modes(self) -> None:
        op, x, dx, v = self.fan, randn(2, 1, 6, 9), randn(2, 1, 6, 9, seed=1), randn(2, *self.fan.out_shape, seed=2)

        def squares(x: Tensor) -> Tensor:
            return op(x) ** 2

        forward = torch.func.jvp(squares, (x,), (dx,))[1]
        assert_close(forward, 2 * op(x) * op(dx))
        x.requires_grad_()
        (gradient,) = torch.autograd.grad((squares(x) * v).sum(), x)
        assert_close(dot(gradient, dx), dot(forward, v))
        y = op(x).detach().requires_grad_()
        (backward,) = torch.autograd.grad((op.adjoint(y) * dx).sum(), y)
        assert_close(backward, op(dx))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype: torch.dtype) -> None:
        x = randn(2, 1, 6, 9).to(dtype)
        assert self.fan(x).dtype == dtype
        assert_close(self.fan(x), self.fan(x.double()).to(dtype))

    def test_is_copied_deeply_and_moved(self) -> None:
        x = randn(2, 1, 6, 9)
        moved = copy.deepcopy(self.fan).to(dtype=torch.float64)
        assert moved.rays.values.dtype == moved.pixels.values.dtype == torch.float64
        assert torch.equal(moved(x), self.fan(x))

    def test_angles_of_any_kind(self) -> None:
        x = randn(1, 1, 6, 9)
        for angles in (torch.tensor([20.0, 77.0]), np.array([20, 77]), (20, 77)):
            expected = ParallelBeamCT((1, 6, 9), [20.0, 77.0])(x)
            assert torch.equal(ParallelBeamCT((1, 6, 9), cast(Any, angles))(x), expected)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"angles": []}, ValueError, "angles must be a list of finite numbers, in degrees and not empty, got shape"),
            ({"angles": [0.0, math.nan]}, ValueError, "with 1 NaN or infinite"),
            ({"angles": 30.0}, ValueError, r"got shape \(\)"),
            ({"detectors": 0}, ValueError, "detectors must be positive, got 0"),
            ({"detectors": 2.5}, TypeError, "detectors must be an integer, got 2.5"),
            ({"detector_spacing": 0.0}, ValueError, "detector_spacing must be positive and finite, got 0"),
            ({"pixel_size": -1.0}, ValueError, "pixel_size must be positive and finite, got -1"),
            ({"in_shape": (6, 9)}, ValueError, r"in_shape must be \(C, H, W\)"),
            ({"sigma_y": 0.1, "noise": GaussianNoise(0.1)}, ValueError, "Give sigma_y or noise, not both"),
        ],
    )
    @pytest.mark.parametrize("build", [ParallelBeamCT, FanBeamCT])
    def test_rejects(self, build: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
        given = {"in_shape": (1, 6, 9), "angles": [0.0], **(FAN if build is FanBeamCT else {}), **options}
        with pytest.raises(error, match=message):
            build(**given)

    def test_rejects_distances(self) -> None:
        with pytest.raises(ValueError, match=r"more than half the diagonal of the image, got 5 where that is 5\.408"):
            FanBeamCT((1, 6, 9), [0.0], **{**FAN, "source_distance": 5.0})
        with pytest.raises(ValueError, match="detector_distance must be positive and finite, got -1"):
            FanBeamCT((1, 6, 9), [0.0], **{**FAN, "detector_distance": -1.0})


def photograph(height: int, width: int) -> np.ndarray:
    return data.chelsea()[60 : 60 + height, 120 : 120 + width]


def as_image(values: np.ndarray) -> Tensor:
    """Return whole numbers up to 255 as a batch of one image that spans [-1, 1]."""
    channels_first = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    return torch.from_numpy(channels_first.astype(np.float64))[None] / 127.5 - 1


def by_pillow(values: np.ndarray, quality: int) -> tuple[Tensor, list[list[int]]]:
    """Return what libjpeg makes of an image, and its tables."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return as_image(np.asarray(image)), list(cast(Any, image).quantization.values())


def psnr(a: Tensor, b: Tensor) -> float:
    return float(10 * torch.log10(4 / (a - b).square().mean()))


class TestJPEG:
    @pytest.mark.parametrize(("quality", "least"), [(5, 33), (10, 35), (20, 38), (50, 41), (75, 42), (95, 45)])
    @pytest.mark.parametrize("side", [(128, 160), (121, 150)])
    def test_agrees_with_pillow(self, quality: int, least: float, side: tuple[int, int]) -> None:
        photo = photograph(*side)
        x, (expected, _) = as_image(photo), by_pillow(photo, quality)
        y = JPEG((3, *side), quality)(x)
        assert psnr(y, expected) > least
        # The damage itself is far greater than that.
        assert psnr(x, expected) < psnr(y, expected) - 5

    def test_agrees_with_pillow_on_grey(self) -> None:
        photo = photograph(121, 150)[..., 1]
        y = JPEG((1, 121, 150), 20)(as_image(photo))
        assert y.shape == (1, 1, 121, 150)
        assert psnr(y, by_pillow(photo, 20)[0]) > 41

    @pytest.mark.parametrize("quality", [10, 50, 75])
    def test_tables_of_a_file(self, quality: int) -> None:
        photo = photograph(128, 160)
        expected, tables = by_pillow(photo, quality)
        by_table = JPEG((3, 128, 160), tables=tables)(as_image(photo))
        assert psnr(by_table, expected) > 35
        assert psnr(by_table, JPEG((3, 128, 160), quality)(as_image(photo))) > 42
        other = JPEG((3, 128, 160), tables=[[min(2 * entry, 255) for entry in table] for table in tables])
        assert psnr(other(as_image(photo)), expected) < psnr(by_table, expected) - 3

    def test_sides_are_continued_by_the_last_pixel(self) -> None:
        x = as_image(photograph(21, 30))
        padded = nn.functional.pad(x, (0, 2, 0, 11), mode="replicate")
        assert_close(JPEG((3, 21, 30), 20)(x), JPEG((3, 32, 32), 20)(padded)[..., :21, :30])

    def test_gradient_is_finite_and_vanishes_at_a_fixed_point(self) -> None:
        op, x = JPEG((3, 64, 64), 30), as_image(photograph(64, 64))
        gradient = op.jacobian(x).adjoint(randn(1, 3, 64, 64))
        assert gradient.isfinite().all()
        stored = x
        for _ in range(6):
            stored = op(stored)
        assert norm(op.jacobian(stored).adjoint(randn(1, 3, 64, 64))) < 0.2 * norm(gradient)

    @pytest.mark.parametrize("options", [{"quality": 10}, {"tables": [range(20, 84), range(30, 94)]}])
    def test_derivative_of_whole_blocks(self, options: dict[str, Any]) -> None:
        op, x, direction, step = JPEG((3, 16, 24), **options), randn(1, 3, 16, 24), randn(1, 3, 16, 24, seed=1), 1e-6
        differences = (op(x + step * direction) - op(x - step * direction)) / (2 * step)
        gap = norm(op.jacobian(x)(direction) - differences) / norm(differences)
        assert gap < 1e-7, gap

    @pytest.mark.parametrize(
        ("in_shape", "options", "message"),
        [
            ((2, 16, 16), {"quality": 50}, r"3 channels \(RGB\) or 1 \(grey\), got 2"),
            ((3, 16, 16), {}, "give either quality or tables, got quality=None and tables=None"),
            ((3, 16, 16), {"quality": 50, "tables": [[16] * 64]}, "give either quality or tables"),
            ((3, 16, 16), {"quality": 0}, "quality must lie between 1 and 100, got 0"),
            ((3, 16, 16), {"quality": math.nan}, "quality must lie between 1 and 100, got nan"),
            ((3, 16, 16), {"tables": [[16] * 63]}, r"64 whole numbers from 1 to 255, got shape \(1, 63\)"),
            ((3, 16, 16), {"tables": [[0] * 64]}, "with values from 0 to 0"),
        ],
    )
    def test_rejects(self, in_shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            JPEG(in_shape, **options)


class TestClip:
    x = torch.tensor([[-2.0, -0.6, -0.4, 0.0, 0.3, 0.5, 4.0]])

    def test_by_hand(self) -> None:
        op = Clip((7,), -1.0, 0.8, gain=2.0)
        assert_close(op(self.x), torch.tensor([[-1.0, -1.0, -0.8, 0.0, 0.6, 0.8, 0.8]]))

    def test_gradient_is_zero_outside_and_the_gain_inside(self) -> None:
        gradient = Clip((7,), -1.0, 0.8, gain=2.0).jacobian(self.x).adjoint(torch.ones(1, 7))
        assert gradient.tolist() == [[0, 0, 2, 2, 2, 0, 0]]

    def test_open_to_one_side(self) -> None:
        assert_close(Clip((7,), -math.inf, 0.4)(self.x), self.x.clamp(max=0.4))

    def test_noise_comes_after(self) -> None:
        assert (Clip((7,), -1.0, 1.0, sigma_y=0.3).measure(torch.full((1, 7), 9.0), seed=0) != 1).all()

    @pytest.mark.parametrize(
        ("low", "high", "gain", "message"),
        [
            (1.0, 1.0, 1.0, "low must be below high, got low=1 and high=1"),
            (math.nan, 1.0, 1.0, "low must be below high"),
            (-1.0, 1.0, 0.0, "gain must be positive and finite, got 0"),
            (-1.0, 1.0, math.inf, "gain must be positive and finite, got inf"),
        ],
    )
    def test_rejects(self, low: float, high: float, gain: float, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Clip((7,), low, high, gain=gain)


class TestQuantise:
    def test_by_hand(self) -> None:
        op = Quantise((6,), 5, low=-1.0, high=1.0)
        assert op.step == 0.5
        x = torch.tensor([[-3.0, -0.8, -0.7, 0.2, 0.3, 1.4]])
        assert op(x).tolist() == [[-1.0, -1.0, -0.5, 0.0, 0.5, 1.0]]

    def test_one_bit(self) -> None:
        assert Quantise((3,), 2, low=0.0, high=1.0)(torch.tensor([[-4.0, 0.4, 0.6]])).tolist() == [[0, 0, 1]]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_keeps_images_of_8_bits(self, dtype: torch.dtype) -> None:
        x = torch.arange(256, dtype=dtype)[None] / 127.5 - 1
        assert_close(Quantise((256,), 256, low=-1.0, high=1.0)(x), x, atol=1e-6, rtol=0)

    def test_takes_few_values(self) -> None:
        assert len(Quantise((4000,), 8, low=-1.0, high=1.0)(randn(1, 4000, dtype=torch.float32)).unique()) == 8

    def test_gradient_is_straight_through(self) -> None:
        op, x = Quantise((6,), 5, low=-1.0, high=1.0), 3 * randn(2, 6)
        assert op.surrogate
        assert torch.equal(op.jacobian(x)(randn(2, 6, seed=1)), randn(2, 6, seed=1))
        assert torch.equal(op.jacobian(x).adjoint(randn(2, 6, seed=1)), randn(2, 6, seed=1))

    def test_the_error_is_uniform_over_a_step(self) -> None:
        op = Quantise((100_000,), 16, low=-1.0, high=1.0)
        x = 2 * torch.rand(1, 100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
        error = op(x) - x
        assert error.abs().max() <= op.step / 2 + 1e-12
        assert_close(error.std(), torch.tensor(op.step / 12**0.5, dtype=torch.float64), atol=0, rtol=0.01)

    @pytest.mark.parametrize(
        ("levels", "low", "high", "error", "message"),
        [
            (1, 0.0, 1.0, ValueError, r"levels must be at least 2, got 1. For b bits that is 2\*\*b"),
            (2.5, 0.0, 1.0, TypeError, "levels must be an integer, got 2.5"),
            (4, 1.0, 1.0, ValueError, "low must be below high and both finite, got low=1 and high=1"),
            (4, 0.0, math.inf, ValueError, "both finite"),
        ],
    )
    def test_rejects(self, levels: Any, low: float, high: float, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            Quantise((3,), levels, low=low, high=high)


class TestGamma:
    @pytest.mark.parametrize("exponent", [0.3, 1 / 2.2, 1.0, 2.2])
    def test_agrees_with_scikit_image(self, exponent: float) -> None:
        u = np.linspace(1 / 255, 1, 255)
        expected = torch.from_numpy(2 * exposure.adjust_gamma(u, cast(Any, exponent)) - 1)
        assert_close(Gamma((255,), exponent)(torch.from_numpy(2 * u - 1)[None])[0], expected)

    @pytest.mark.parametrize("exponent", [0.3, 1 / 2.2, 1.0, 2.2])
    def test_rises_smoothly_through_black(self, exponent: float) -> None:
        op = Gamma((4001,), exponent)
        x = torch.linspace(-1.02, -0.98, 4001, dtype=torch.float64)[None].requires_grad_()
        y = op(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        assert_close(y[:, 2000], -torch.ones(1, dtype=torch.float64))  # Black stays black.
        assert (y.diff() > 0).all()
        assert slope.isfinite().all()
        # No jump, neither in the value nor in the slope; and odd.
        assert y.diff().max() < 1.01 * slope.max() * 1e-5
        assert slope.diff().abs().max() < 0.02 * slope.max()
        assert_close(y + 1, -(y + 1).flip(-1), atol=1e-12, rtol=0)

    def test_slope_at_black_is_the_one_documented(self) -> None:
        slope = Gamma((1,), 1 / 2.2).jacobian(torch.tensor([[-1.0]])).adjoint(torch.ones(1, 1))
        assert_close(slope, torch.tensor([[(2 - 1 / 2.2) * (1 / 512) ** (1 / 2.2 - 1)]]))
        assert 46 < slope < 47
        assert Gamma((1,), 2.2).jacobian(torch.tensor([[-1.0]])).adjoint(torch.ones(1, 1)) == 0

    @pytest.mark.parametrize("exponent", [0.0, -1.0, math.nan, math.inf])
    def test_rejects(self, exponent: float) -> None:
        with pytest.raises(ValueError, match="exponent must be positive and finite"):
            Gamma((3,), exponent)


class TestNetworkOperator:
    def network(self) -> nn.Sequential:
        blur = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.SiLU(), nn.Conv2d(3, 1, 2, 2)
        )
        with torch.no_grad():
            for i, weight in enumerate(blur.parameters()):
                weight.copy_(randn(*weight.shape, seed=i))
        return blur

    def test_is_the_network_in_evaluation_mode(self) -> None:
        network, x = self.network(), randn(4, 1, 6, 8, dtype=torch.float32)
        op = NetworkOperator(network, (1, 6, 8), sigma_y=0.1)
        assert op.out_shape == (1, 3, 4)
        assert_close(op(x), copy.deepcopy(network).eval()(x))

    def test_leaves_the_network_alone(self) -> None:
        network, x = self.network(), randn(2, 1, 6, 8, dtype=torch.float32)
        before = copy.deepcopy(network.state_dict())
        op = NetworkOperator(network, (1, 6, 8))
        expected = op(x)
        moved = op.to(dtype=torch.float64)
        moved(x.double())
        assert network.training
        assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in network.parameters())
        assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
        for weight in network.parameters():
            weight.data.zero_()
        assert torch.equal(op(x), expected)
        assert all(weight.dtype == torch.float32 for weight in op.network.parameters())
        assert all(weight.dtype == torch.float64 for weight in moved.network.parameters())

    def test_gradient_reaches_the_image_alone(self) -> None:
        op, x = NetworkOperator(self.network(), (1, 6, 8)), randn(2, 1, 6, 8).requires_grad_()
        op(x).square().sum().backward()
        assert x.grad is not None
        assert x.grad.abs().max() > 0
        assert all(weight.grad is None for weight in op.network.parameters())

    def test_shared_weights_and_no_weights(self) -> None:
        layer = nn.Conv2d(1, 1, 3, padding=1)
        x = randn(2, 1, 6, 8)
        expected = copy.deepcopy(layer).double()
        assert_close(NetworkOperator(nn.Sequential(layer, nn.Tanh(), layer), (1, 6, 8))(x), expected(expected(x).tanh()))
        assert_close(NetworkOperator(nn.AvgPool2d(2), (1, 6, 8))(x), nn.functional.avg_pool2d(x, 2))

    def test_rejects(self) -> None:
        with pytest.raises(
            TypeError, match=r"must be a torch.nn.Module, got builtin_function_or_method\. For any other callable"
        ):
            NetworkOperator(cast(Any, torch.tanh), (3,))
        with pytest.raises(TypeError, match="must return a real floating-point tensor, got tuple"):
            NetworkOperator(nn.GRU(3, 2), (5, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rho", [1e-5, 1e-2])
def test_the_prox_of_many_rays_is_near_the_best(rho: float, dtype: torch.dtype) -> None:
    """Where rho is small against the rays, iterations over the measurements end worse than they began."""
    size = 20
    op = ParallelBeamCT((1, size, size), np.arange(40) * 4.5, sigma_y=0.5)
    x = randn(2, 1, size, size)
    z, y = x + 0.3 * randn(2, 1, size, size, seed=1), op.measure(x, seed=0)
    a = dense_matrix(op.forward, op.in_shape, dtype=torch.float64, device=torch.device("cpu"))
    normal = a.mT @ a + rho * torch.eye(size * size, dtype=torch.float64)
    best = z.flatten(1) + torch.linalg.solve(normal, (a.mT @ (y - op(z)).flatten(1).mT)).mT

    def objective(u: torch.Tensor) -> torch.Tensor:
        u = u.double().reshape(z.shape)
        return norm(y - op(u)) ** 2 + rho * norm(u - z) ** 2

    found = op.prox(z.to(dtype), y.to(dtype), rho)
    assert (objective(found) <= objective(best) * (1 + 1e-3)).all()


def test_rays_under_vmap() -> None:
    op, x = ParallelBeamCT.examples()[0], randn(3, 2, 6, 8)
    each = torch.func.vmap(lambda one: op(one[None])[0])(x)
    assert_close(each, op(x))
    jacobian = cast(Any, torch.func.jacrev(lambda one: op(one[None])[0].flatten()))(x[0])
    assert_close(jacobian.reshape(-1, x[0].numel()) @ x[0].flatten(), op(x)[0].flatten())
