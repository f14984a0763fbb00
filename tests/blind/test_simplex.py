"""Projection onto the simplex, quadratic problems on it, pruning and centering of kernels."""

import pytest
import torch
from helpers import randn

from invdiff.blind.simplex import centered, doubled, on_torus, onto_simplex, proximal_step, pruned, trimmed


def test_the_projection_is_the_nearest_point_of_the_simplex():
    values = randn(5, 5, seed=1)
    nearest = onto_simplex(values)
    assert float(nearest.sum()) == 1 or abs(float(nearest.sum()) - 1) < 1e-12
    assert (nearest >= 0).all()
    # The variational inequality: no point of the simplex lies on the other side.
    corners = torch.eye(25, dtype=torch.float64).reshape(25, 5, 5)
    assert (((corners - nearest) * (values - nearest)).sum((1, 2)) <= 1e-12).all()
    torch.testing.assert_close(onto_simplex(nearest), nearest)


def test_a_proximal_step_solves_the_quadratic_problem():
    sides, size = (16, 16), 5
    x = randn(1, *sides, seed=2)
    power = torch.fft.rfft2(x).abs().square().sum(0)
    true = onto_simplex(randn(size, size, seed=3))
    start = torch.full((size, size), 1 / size**2, dtype=torch.float64)
    # The gradient at the start of half the squared distance to the true kernel in the metric of the power.
    product = torch.fft.irfft2(power * torch.fft.rfft2(on_torus(start - true, sides)), s=sides)
    gradient = product.roll((size // 2, size // 2), (0, 1))[:size, :size]
    torch.testing.assert_close(proximal_step(start, gradient, power, sides, iterations=3000), true, atol=1e-5, rtol=0)


def test_a_doubled_kernel_has_the_same_shape_at_half_the_pixel_size():
    side = torch.arange(17, dtype=torch.float64) - 8
    narrow = torch.exp(-(side[:, None] ** 2 / 2 + (side - 1) ** 2 / 3) / 2)
    wide = doubled(narrow / narrow.sum(), 31)
    places = torch.arange(31, dtype=torch.float64) - 15
    assert float(wide.sum()) == pytest.approx(1)
    assert float((wide.sum(0) * places).sum()) == pytest.approx(2, abs=0.05)  # the centroid, twice as many pixels away
    spread = (wide.sum(1) * places**2).sum()
    assert float(spread) == pytest.approx(4 * 2, rel=0.15)  # the interpolation adds a little


def test_pruning_keeps_the_path_and_removes_what_is_faint_or_far():
    kernel = torch.zeros(9, 9, dtype=torch.float64)
    kernel[4, 2:7] = 1.0
    kernel[3, 7] = 0.5  # touches the path
    kernel[0, 0] = 0.2  # a small island
    kernel[5, 4] = 0.01  # faint
    expected = kernel.clone()
    expected[0, 0] = expected[5, 4] = 0
    torch.testing.assert_close(pruned(kernel / kernel.sum(), 0.05), expected / expected.sum())


def test_centering_moves_the_centroid_to_the_middle_pixel():
    kernel = torch.zeros(7, 7, dtype=torch.float64)
    kernel[0, 1] = kernel[1, 1] = kernel[1, 2] = 1 / 3
    moved = centered(kernel)
    places = torch.arange(7, dtype=torch.float64) - 3
    assert abs(float((moved.sum(1) * places).sum())) <= 0.5
    assert abs(float((moved.sum(0) * places).sum())) <= 0.5
    torch.testing.assert_close(moved.flatten().sort().values, kernel.flatten().sort().values)


def test_trimming_removes_only_empty_margins_and_keeps_the_center():
    kernel = torch.zeros(9, 9, dtype=torch.float64)
    kernel[4, 4], kernel[4, 6] = 0.75, 0.25
    small = trimmed(kernel)
    assert small.shape == (5, 5)
    assert (float(small[2, 2]), float(small[2, 4])) == (0.75, 0.25)


def test_on_the_torus_the_center_is_at_0():
    kernel = randn(3, 5, seed=4)
    placed = on_torus(kernel, (8, 9))
    assert placed[0, 0] == kernel[1, 2]
    assert placed[-1, -2] == kernel[0, 0]
