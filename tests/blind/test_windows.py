"""Windows of a measurement: where they lie, what counts, and how they close to a torus."""

import pytest
import torch
from helpers import randn

from invdiff.blind.windows import windows_of


def test_a_small_circular_measurement_is_used_as_it_is():
    y = randn(1, 3, 40, 56, seed=1)
    (window,) = windows_of(y, reach=5, boundary="circular", factor=1, side=128, count=2)
    assert window.y is y
    assert window.values == y.numel()


def test_other_measurements_are_continued_and_only_the_inner_part_counts():
    y = randn(1, 3, 60, 60, seed=2)
    (window,) = windows_of(y, reach=5, boundary="valid", factor=1, side=128, count=2)
    torch.testing.assert_close(window.y[..., :60, :60], y)
    assert window.y.shape[-1] >= 65
    assert window.y.shape[-1] % 16 == 0
    assert window.counted[0, 0, 5:55, 5:55].all()
    assert window.values == 3 * 50 * 50
    # The continuation begins as the mirror image of the end and ends as that of the beginning.
    row, gap = window.y[0, 0, 0], window.y.shape[-1] - 60
    torch.testing.assert_close(row[60], (gap * y[0, 0, 0, -1] + y[0, 0, 0, gap - 1]) / (gap + 1))
    torch.testing.assert_close(row[-1], (y[0, 0, 0, 60 - gap] + gap * y[0, 0, 0, 0]) / (gap + 1))


def test_windows_of_a_large_picture_lie_on_its_edges_and_do_not_overlap():
    y = torch.zeros(1, 1, 400, 400)
    y[..., 20:120, 250:350] = randn(1, 1, 100, 100, seed=3).float()
    y[..., 260:380, 10:130] = 0.5 * randn(1, 1, 120, 120, seed=4).float()
    windows = windows_of(y, reach=8, boundary="valid", factor=1, side=128, count=3)
    assert len(windows) == 3
    powers = [float(window.y.square().sum()) for window in windows]
    assert powers[0] > powers[1] > 0
    assert float(windows[0].y[..., :128, :128].square().sum()) == pytest.approx(float(y[..., :200, :].square().sum()), rel=1e-4)


def test_a_picture_smaller_than_the_kernels_is_refused():
    with pytest.raises(ValueError, match="too small for kernels that reach 20 pixels"):
        windows_of(randn(1, 1, 40, 40), reach=20, boundary="valid", factor=1, side=128, count=1)
