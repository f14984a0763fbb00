"""Panels show every image pixel by pixel, and heat maps the documented scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from skimage import data

from invdiff.io.figures import calibration_plot, comparison_panel, std_map, tile_grid


def holds(panel, image):
    """Whether ``image`` occurs in ``panel`` (both ``(H, W, 3)``), pixel by pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(panel, image.shape)[..., 0, :, :, :]
    corner = (windows[:, :, 0, 0] == image[0, 0]).all(-1) & (windows[:, :, -1, -1] == image[-1, -1]).all(-1)
    return any((windows[row, column] == image).all() for row, column in zip(*corner.nonzero(), strict=True))


def crop(height, width):
    return np.ascontiguousarray(data.chelsea()[60 : 60 + height, 90 : 90 + width])


def pixels(image):
    return image.transpose(2, 0, 1) / 127.5 - 1


def read(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize(("height", "width"), [(200, 230), (97, 131), (31, 20), (251, 199)])
def test_images_are_shown_pixel_by_pixel(tmp_path, height, width):
    image = crop(height, width)
    tiles = {f"sample {k}": pixels(np.roll(image, k, axis=0)) for k in range(12)}
    comparison_panel(tmp_path / "panel.png", tiles, std=np.ones((3, height, width)))
    panel = read(tmp_path / "panel.png")
    factor = max(1, round(192 / max(height, width)))
    assert panel.shape[1] <= 1800
    for k in (0, 5, 11):
        assert holds(panel, np.roll(image, k, axis=0).repeat(factor, 0).repeat(factor, 1))


def test_a_small_measurement_is_enlarged_to_its_neighbours(tmp_path):
    small, large = crop(50, 60), crop(200, 240)
    comparison_panel(tmp_path / "panel.png", {"measurement": pixels(small), "mean": pixels(large)})
    panel = read(tmp_path / "panel.png")
    assert holds(panel, large)
    assert holds(panel, small.repeat(4, 0).repeat(4, 1))


def test_grey_and_many_channels(tmp_path):
    image = pixels(crop(200, 200))
    comparison_panel(tmp_path / "panel.png", {"grey": image[:1], "five": np.concatenate([image, image[:2]])})
    values = np.rint((image[0] + 1) * 127.5).astype(np.uint8)
    assert holds(read(tmp_path / "panel.png"), values[..., None].repeat(3, -1))


def test_large_images_are_reduced_by_means(tmp_path):
    large = np.kron(crop(100, 350), np.ones((4, 4, 1), np.uint8))  # 400 x 1400 pixels, shown at half their size
    comparison_panel(tmp_path / "panel.png", {"large": pixels(large)}, std=np.ones((3, *large.shape[:2])))
    means = large.reshape(200, 2, 700, 2, 3).mean((1, 3))
    assert holds(read(tmp_path / "panel.png"), np.rint(means).astype(np.uint8))


def test_std_alone(tmp_path):
    comparison_panel(tmp_path / "panel.png", {}, std=np.zeros((20, 20)))
    assert (tmp_path / "panel.png").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["panel.png"]


def test_std_map_has_the_pixels_and_the_scale_of_the_image(tmp_path):
    std = np.linspace(0, 0.4, 12 * 15).reshape(1, 12, 15).repeat(3, 0)
    limit = std_map(tmp_path / "std.png", std)
    assert 0.19 < limit <= 0.2  # on the 0..1 scale: half of what it is on [-1, 1]
    factor = 13  # 15 pixels become about 192
    image = read(tmp_path / "std.png").astype(int)[: 12 * factor, : 15 * factor]
    assert (image == image[::factor, ::factor].repeat(factor, 0).repeat(factor, 1)).all()  # pixel by pixel
    assert image[0, 0].sum() < image[6 * factor, 7 * factor].sum() < image[-1, -1].sum()  # magma grows brighter
    assert std_map(tmp_path / "std.png", std, limit=1.0) == 1.0
    assert read(tmp_path / "std.png").astype(int)[12 * factor - 1, 15 * factor - 1].sum() < image[-1, -1].sum()
    assert std_map(tmp_path / "std.png", 0 * std) == 1.0


@pytest.mark.parametrize("size", [(12, 15), (300, 500), (700, 2400)])
def test_std_map_has_a_legend_below_it(tmp_path, size):
    height, width = size
    std_map(tmp_path / "std.png", np.linspace(0, 0.4, height * width).reshape(size))
    image = read(tmp_path / "std.png").astype(int)
    factor = max(1, round(192 / max(size)))
    legend = image[height * factor :]
    assert image.shape[1] == max(width * factor, 420)
    assert (legend[0] == 255).all()
    words = (legend.max(2) < 100).any(1)  # lines of dark text: title, numbers, and two of words
    lines = np.flatnonzero(np.diff(np.pad(words, 1).astype(int)) == 1)
    assert len(lines) >= 4
    assert not (legend[:, [0, -1]] < 200).any()  # no word is cut off
    colors = {tuple(color) for color in legend.reshape(-1, 3)}
    assert len(colors) > 100  # of the bar


@pytest.mark.parametrize("std", [-np.ones((4, 4)), np.full((4, 4), np.nan), np.ones(4), np.ones((0, 4))])
def test_bad_std(tmp_path, std):
    for call in (lambda: std_map(tmp_path / "x.png", std), lambda: comparison_panel(tmp_path / "x.png", {}, std=std)):
        with pytest.raises(ValueError, match="std must be"):
            call()


def test_bad_panels(tmp_path):
    with pytest.raises(ValueError, match="nothing to show"):
        comparison_panel(tmp_path / "x.png", {})
    with pytest.raises(ValueError, match="'mean'"):
        comparison_panel(tmp_path / "x.png", {"mean": np.zeros((4, 4))})
    with pytest.raises(ValueError, match="limit"):
        std_map(tmp_path / "x.png", np.ones((4, 4)), limit=0)
    assert not list(tmp_path.iterdir())


def test_tile_grid_shows_every_pixel(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 6)) / 127.5 - 1
    tile_grid(tmp_path / "grid.png", images, columns=3)
    grid = read(tmp_path / "grid.png").astype(int)
    assert grid.shape == (2 * 6 - 2, 3 * 8 - 2, 3)
    for number, image in enumerate(images):
        row, column = divmod(number, 3)
        shown = grid[6 * row : 6 * row + 4, 8 * column : 8 * column + 6]
        assert (shown == np.rint((image + 1) * 127.5).transpose(1, 2, 0)).all()
    assert (grid[4:6] == 255).all()
    for bad in (images[:0], images[0]):
        with pytest.raises(ValueError, match="tile"):
            tile_grid(tmp_path / "bad.png", bad, columns=3)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_calibration_plot_has_a_histogram_of_every_quantity(tmp_path, count, monkeypatch):
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, path, **_: (figures.append(self), Path(path).touch()))
    ranks = {f"quantity {k}": np.linspace(0.01, 0.99, 40) for k in range(count)}
    curve, expected = [(0.5, 0.4, 0.02), (0.9, 0.8, 0.01)], [(0.5, 0.45, 0.02)]
    calibration_plot(tmp_path / "plot.png", ranks, curve, titles=dict.fromkeys(ranks, "p = 0.3"), expected=expected)
    *histograms, axes_of_coverage = figures[0].axes
    assert [axes.get_title() for axes in histograms] == [f"{name}\np = 0.3" for name in ranks]
    for axes in histograms:
        bars = [patch for patch in axes.patches if patch.get_width() < 0.5]
        assert [bar.get_height() for bar in bars] == [5] * 8
        (band,) = (patch for patch in axes.patches if patch not in bars)
        low, high = band.get_y(), band.get_y() + band.get_height()
        # At least 99 %, and not with one less on either side.
        assert stats.binom.cdf(high, 40, 1 / 8) - stats.binom.cdf(low - 1, 40, 1 / 8) >= 0.99
        assert stats.binom.cdf(high - 1, 40, 1 / 8) < 0.995
    drawn = {container.get_label(): container.lines[0].get_xydata().tolist() for container in axes_of_coverage.containers}
    assert drawn == {"intervals": [[0.5, 0.4], [0.9, 0.8]], "random points": [[0.5, 0.45]]}
