"""Rays through an image."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from cases import build
from helpers import dot, norm, randn
from skimage.transform import radon
from torch import Tensor
from torch.testing import assert_close

from invdiff.linalg import dense_matrix
from invdiff.operators import FanBeamCT, GaussianNoise, ParallelBeamCT
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


def distances(point: Any, direction: Any, center: tuple[float, float]) -> Any:
    """Return how far every ray passes from ``center``."""
    x, y = (point[i] - center[i] for i in (0, 1))
    return np.abs(x * direction[1] - y * direction[0])


def disc(side: int, center: tuple[float, float], radius: float) -> Tensor:
    """Return the share of every pixel that a disc covers, to 1/64, with ``(x, y)`` from the center of the image, y upwards."""
    places = (np.arange(8 * side) + 0.5) / 8 - side / 2
    inside = (places[None] - center[0]) ** 2 + (-places[:, None] - center[1]) ** 2 <= radius**2
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
        """A disc off the center, in a turn of 360 degrees: 2 sqrt(r^2 - d^2) at distance d, but for pixels along its rim."""
        angles, center, radius = np.arange(0.0, 360.0, 24.0), (13.0, 21.0), 18.0
        geometry: dict[str, float] = {"spacing": 1.0}
        if fanned:
            geometry = {"spacing": 2.1, "source": 120.0, "detector": 90.0}
            op: RayTransform = FanBeamCT(
                (1, 96, 96), angles, source_distance=120, detector_distance=90, detectors=150, detector_spacing=2.1
            )
        else:
            op = ParallelBeamCT((1, 96, 96), angles)
        point, direction = rays_of(op, angles, **geometry)
        expected = 2 * np.sqrt((radius**2 - distances(point, direction, center) ** 2).clip(0))
        gap = op(disc(96, center, radius))[0, 0] - torch.from_numpy(expected)
        assert gap.square().mean().sqrt() < 0.25  # Of 36 at the center.
        assert gap.abs().max() < 5  # Where the shadow ends, it falls from there to 0 within a fraction of a pixel.

    def test_far_from_its_source_a_fan_is_parallel(self) -> None:
        x = randn(2, 1, 6, 9)
        far = FanBeamCT((1, 6, 9), self.angles, source_distance=1e7, detector_distance=0.0, detectors=14, detector_spacing=0.83)
        oblique = [1, 2, 3, 5, 7]  # Elsewhere the smallest slope decides on which side of a border a ray runs.
        assert_close(far(x)[:, :, oblique], self.parallel(x)[:, :, oblique], atol=5e-5, rtol=0)

    def test_the_rays_to_an_arc_have_equal_angles(self) -> None:
        """Each is the ray to the place of a flat detector that lies behind its own."""
        x, reach = randn(1, 1, 6, 9), 20.0 + 9.0
        arc = FanBeamCT((1, 6, 9), self.angles, **FAN, curved=True)(x)
        for d in range(12):
            place = reach * math.tan((d - 5.5) * 1.7 / reach)
            flat = {**FAN, "detectors": 1, "detector_spacing": 1.0, "center": -place}
            assert_close(arc[..., d], FanBeamCT((1, 6, 9), self.angles, **flat)(x)[..., 0], atol=1e-5, rtol=1e-5)

    def test_an_arc_of_more_than_half_a_turn(self) -> None:
        with pytest.raises(ValueError, match="reach a quarter turn"):
            FanBeamCT((1, 6, 9), [0.0], **{**FAN, "detector_spacing": 10.0}, curved=True)

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

    @pytest.mark.parametrize("side", [32, 33])
    @pytest.mark.parametrize("circle", [True, False])
    def test_center_and_axis_are_those_of_scikit_image(self, side: int, circle: bool) -> None:
        """Half a pixel, by which they are off the center of even sides, would be a gap of 6 %."""
        angles, half = np.arange(0.0, 180.0, 7.0), side // 2
        row, column = np.mgrid[:side, :side] - half
        image = np.exp(-((row - 3) ** 2 + (column + 4) ** 2) / 18)
        image[row**2 + column**2 > half**2] = 0
        expected = torch.from_numpy(radon(image, angles, circle=circle).T.copy())
        detectors = expected.shape[1]
        op = ParallelBeamCT((1, side, side), angles, detectors=detectors, center=detectors // 2, axis=(half, half))
        gap = norm(op(torch.from_numpy(image)[None, None])[0, 0] - expected) / norm(expected)
        assert gap.median() < 5e-3

    @pytest.mark.parametrize("build", [ParallelBeamCT, FanBeamCT])
    def test_center_and_axis_are_the_middles_unless_told(self, build: Any) -> None:
        x = randn(1, 1, 6, 9)
        given: dict[str, Any] = FAN if build is FanBeamCT else {"detectors": 12}
        told = build((1, 6, 9), self.angles, center=5.5, axis=(2.5, 4.0), **given)
        assert torch.equal(told(x), build((1, 6, 9), self.angles, **given)(x))

    @pytest.mark.parametrize("build", [ParallelBeamCT, FanBeamCT])
    def test_a_shifted_center_is_a_shifted_detector(self, build: Any) -> None:
        x = randn(1, 1, 6, 9)
        given: dict[str, Any] = FAN if build is FanBeamCT else {}
        few, many = ({**given, "detectors": count} for count in (12, 17))
        y = build((1, 6, 9), self.angles, center=8.5, **many)(x)
        assert_close(y[..., 3:15], build((1, 6, 9), self.angles, **few)(x), atol=1e-6, rtol=1e-6)

    @pytest.mark.parametrize("build", [ParallelBeamCT, FanBeamCT])
    def test_a_shifted_axis_is_a_shifted_image(self, build: Any) -> None:
        given: dict[str, Any] = FAN if build is FanBeamCT else {"detectors": 30}
        x = torch.nn.functional.pad(randn(1, 1, 6, 9), (2, 2, 2, 2))
        y = build((1, 10, 13), self.angles, axis=(5.5, 4.0), **given)(x.roll((1, -2), (-2, -1)))
        assert_close(y, build((1, 10, 13), self.angles, **given)(x), atol=1e-5, rtol=1e-5)

    def test_huge_angles_are_angles(self) -> None:
        x = randn(1, 1, 6, 9)
        assert torch.equal(
            ParallelBeamCT((1, 6, 9), [360.0 * 2**60 + 0.0, 450.0])(x), ParallelBeamCT((1, 6, 9), [0.0, 90.0])(x)
        )
        assert ParallelBeamCT((1, 6, 9), [1e30])(x).isfinite().all()

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
            ({"angles": []}, ValueError, "angles must be a non-empty list of finite numbers, in degrees, got shape"),
            ({"angles": [0.0, math.nan]}, ValueError, "with 1 NaN or infinite"),
            ({"angles": 30.0}, ValueError, r"got shape \(\)"),
            ({"detectors": 0}, ValueError, "detectors must be positive, got 0"),
            ({"detectors": 2.5}, TypeError, "detectors must be an integer, got 2.5"),
            ({"detector_spacing": 0.0}, ValueError, "detector_spacing must be positive and finite, got 0"),
            ({"center": math.inf}, ValueError, "center must be a finite number, counted in detectors from 0, got inf"),
            ({"axis": (1.0, math.nan)}, ValueError, r"axis must be a pixel \(row, column\), two finite numbers"),
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
        with pytest.raises(ValueError, match=r"more than half the diagonal of the image, which is 5\.408.*, got 5\."):
            FanBeamCT((1, 6, 9), [0.0], **{**FAN, "source_distance": 5.0})
        with pytest.raises(ValueError, match=r"corners of the image are up to 9\.486.. from the axis, .* got 9\."):
            FanBeamCT((1, 6, 9), [0.0], axis=(2.5, -0.5), **{**FAN, "source_distance": 9.0})
        with pytest.raises(ValueError, match="detector_distance must be positive and finite, got -1"):
            FanBeamCT((1, 6, 9), [0.0], **{**FAN, "detector_distance": -1.0})


@pytest.mark.slow
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
    op, x = build(ParallelBeamCT)[0], randn(3, 2, 6, 8)
    each = torch.func.vmap(lambda one: op(one[None])[0])(x)
    assert_close(each, op(x))
    jacobian = cast(Any, torch.func.jacrev(lambda one: op(one[None])[0].flatten()))(x[0])
    assert_close(jacobian.reshape(-1, x[0].numel()) @ x[0].flatten(), op(x)[0].flatten())
