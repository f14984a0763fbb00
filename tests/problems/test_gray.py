"""Pictures that are gray or of one tone although they have three channels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from invdiff.io.picture import Picture
from invdiff.problems.gray import in_gray, in_luma
from invdiff.restoration import read

CAT = data.chelsea()[60:188, 120:280] / 255
GRAY = CAT @ np.array([0.299, 0.587, 0.114])
SEPIA = np.stack([GRAY**0.8, 0.92 * GRAY, 0.78 * GRAY**1.15]).clip(0, 1)


def picture(unit, alpha=None):
    return Picture(2 * np.asarray(unit) - 1, alpha)


def compressed(unit, quality):
    file = io.BytesIO()
    Image.fromarray(np.uint8(np.rint(255 * unit.transpose(1, 2, 0)))).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.asarray(image).transpose(2, 0, 1) / 255


@pytest.mark.parametrize("unit", [SEPIA, *(compressed(SEPIA, quality) for quality in (30, 50, 75, 95))])
def test_toned_pictures_have_one_channel(unit):
    found = in_luma(picture(unit))
    luma = np.tensordot([0.299, 0.587, 0.114], unit, 1)
    np.testing.assert_allclose(found.pixels, 2 * luma[None] - 1, atol=1e-12)
    assert any("of one tone" in note for note in found.notes)
    assert in_gray(picture(unit)).pixels.shape[0] == 3  # what demosaic takes


@pytest.mark.parametrize("side", [4, 16, 64])
def test_colors_are_refused(side):
    noise = np.random.default_rng(0).uniform(0, 1, (3, side, side))
    for unit in (noise, CAT.transpose(2, 0, 1)):
        assert len(in_luma(picture(unit)).pixels) == 3


def test_a_small_colored_thing_is_enough():
    buoy = SEPIA.copy()
    buoy[:, 20:26, 20:26] = np.array([0.8, 0.1, 0.1])[:, None, None]
    assert len(in_luma(picture(buoy)).pixels) == 3


@pytest.mark.parametrize("colors", [[(0, 0, 1), (1, 1, 1), (1, 0, 0)], [(0, 0, 1), (1, 1, 1), (1, 1, 0)]])
def test_the_few_colors_of_a_graphic_are_refused(colors):
    flag = np.repeat(np.array(colors, dtype=float).T[:, None, :], 30, 2).repeat(60, 1)
    assert len(in_luma(picture(flag)).pixels) == 3


def test_invisible_pixels_do_not_count():
    colored, alpha = SEPIA.copy(), np.ones(GRAY.shape)
    colored[:, :20, :20] = np.array([0.0, 1.0, 0.0])[:, None, None]
    assert len(in_luma(picture(colored, alpha)).pixels) == 3
    alpha[:20, :20] = 0
    assert len(in_luma(picture(colored, alpha)).pixels) == 1
    assert len(in_luma(picture(colored, 0 * alpha)).pixels) == 3


def test_colorize_takes_them():
    measured = read(SEPIA, "colorize")
    assert measured.y.shape == (1, 1, *GRAY.shape)
    assert any("of one tone" in note for note in measured.notes)
    with pytest.raises(ValueError, match="expected a grayscale one, equal channels, or colors of one tone"):
        read(CAT.transpose(2, 0, 1), "colorize")
