"""Kernels of the families: sums, moments, centers, and refusals."""

import math

import pytest
import torch

from invdiff.blind import DiscFamily, FreeFamily, GaussianFamily, LineFamily
from invdiff.operators import defocus_kernel, gaussian_kernel, motion_kernel

CASES = [(GaussianFamily(), (1.7,)), (DiscFamily(), (3.3,)), (LineFamily(), (9.0, 30.0))]


def moments(kernel):
    """Return the centroid (down, right) and the covariance of a kernel, around the middle pixel."""
    size = kernel.shape[0]
    places = torch.arange(size, dtype=kernel.dtype) - size // 2
    down, right = (kernel.sum(1) * places).sum(), (kernel.sum(0) * places).sum()
    centered = torch.stack([p.flatten() for p in torch.meshgrid(places - down, places - right, indexing="ij")])
    return torch.stack([down, right]), (kernel.flatten() * centered) @ centered.mT


@pytest.mark.parametrize(("family", "theta"), CASES, ids=["gaussian", "disc", "line"])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_kernels_have_sum_1_and_their_center_where_asked(family, theta, shift):
    kernel = family.kernel(theta, shift=shift)
    assert kernel.shape == (family.size, family.size)
    assert (kernel >= 0).all()
    assert float(kernel.sum()) == pytest.approx(1)
    center, _ = moments(kernel)
    torch.testing.assert_close(center, torch.full((2,), shift, dtype=torch.float64), atol=1e-6, rtol=0)


def test_they_are_the_kernels_of_the_operators():
    torch.testing.assert_close(GaussianFamily().kernel((1.7,)), gaussian_kernel(1.7, GaussianFamily().size))
    disc, margin = defocus_kernel(3.3), (DiscFamily().size - 7) // 2
    torch.testing.assert_close(DiscFamily().kernel((3.3,)), torch.nn.functional.pad(disc, (margin,) * 4))


def test_a_line_has_the_variance_of_its_length_and_the_direction_of_its_angle():
    _, covariance = moments(LineFamily().kernel((12.0, 30.0)))
    values, vectors = torch.linalg.eigh(covariance)
    # Linear interpolation adds a sixth of a square pixel or less to both axes.
    assert 12 <= float(values[1]) <= 12.2  # L^2 / 12
    assert 0 <= float(values[0]) <= 0.2
    down, right = vectors[:, 1] * vectors[1, 1].sign()
    assert math.degrees(math.atan2(-float(down), float(right))) == pytest.approx(30, abs=0.5)  # counter-clockwise
    other = torch.nn.functional.pad(motion_kernel(11, 30.0), ((LineFamily().size - 11) // 2,) * 4)
    assert float((LineFamily().kernel((11.0, 30.0)) - other).norm() / other.norm()) < 0.35


@pytest.mark.parametrize("family", [GaussianFamily(), DiscFamily(), LineFamily()], ids=["gaussian", "disc", "line"])
def test_the_grid_of_the_search_lies_within_the_bounds_and_covers_them(family):
    grid = family.start()
    assert all(family.wrapped(theta) is not None for theta in grid)
    for index, (low, high) in enumerate(family.bounds):
        assert min(theta[index] for theta in grid) == pytest.approx(low)
        assert max(theta[index] for theta in grid) >= (high - 60 if high == 180 else 0.999 * high)


def test_angles_wrap_and_nothing_else():
    assert LineFamily().wrapped((9.0, 190.0)) == (9.0, 10.0)
    assert LineFamily().wrapped((9.0, -10.0)) == (9.0, 170.0)
    assert LineFamily().wrapped((1000.0, 10.0)) is None
    assert GaussianFamily().wrapped((0.01,)) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianFamily(2.0, 1.0), "0 < low < high for sigma"),
        (lambda: DiscFamily(-1.0), "0 < low < high for radius"),
        (lambda: LineFamily(2.0, math.inf), "0 < low < high for length"),
        (lambda: FreeFamily(30), "odd"),
        (lambda: FreeFamily(3), "at least 5"),
        (lambda: GaussianFamily().kernel((9.0,)), r"sigma must lie in \[0.3, 5\]"),
        (lambda: LineFamily().kernel((9.0,)), "length, angle"),
        (lambda: DiscFamily().kernel((math.nan,)), "finite"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
