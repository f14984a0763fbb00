"""Estimates of the noise level: right within their stated error, or refused by name."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from skimage import data

from invdiff.operators import GaussianNoise
from invdiff.operators.core.noise_level import noise_level

SIDE = 128
CAT = data.chelsea()[20:276, 100:356].transpose(2, 0, 1) / 127.5 - 1  # pictures span [-1, 1] here
ROCKET = data.rocket()[100:356, 200:456].transpose(2, 0, 1) / 127.5 - 1
PICTURES = {"cat": CAT, "rocket": ROCKET, "gray": CAT[:1]}


def noise(shape, level, seed=0):
    """Noise whose level refers to pixels that span 0..1."""
    return 2 * level * np.random.default_rng(seed).standard_normal(shape)


def in_8_bits(picture):
    return np.rint((picture.clip(-1, 1) + 1) * 127.5) / 127.5 - 1


def disc(black):
    """A disc with a soft pattern; ``black``: the share of the pixels outside of it."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    inside = x**2 + y**2 < (1 - black) * SIDE**2 / np.pi
    return inside, np.broadcast_to(np.where(inside, 0.4 * np.sin(x / 15), -1.0), (3, SIDE, SIDE))


def right(picture, level, **known):
    found = noise_level(picture, **known)
    assert abs(found.sigma / 2 - level) <= max(3 * found.error / 2, 0.05 * level), found
    assert found.error <= 0.5 * found.sigma
    return found


@pytest.mark.parametrize("level", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("bits", [8, 32])
def test_photographs(name, level, bits):
    clean = PICTURES[name]
    noisy = clean + noise(clean.shape, level)
    found = noise_level(in_8_bits(noisy) if bits == 8 else noisy)
    assert found.sigma / 2 == pytest.approx(level, rel=0.1)


@pytest.mark.parametrize("black", [0.3, 0.45, 0.6, 0.75])
@pytest.mark.parametrize("bits", [8, 32])
def test_black_backgrounds(black, bits):
    inside, base = disc(black)
    noisy = np.where(inside, base + noise(base.shape, 0.08), -1.0)
    found = right(in_8_bits(noisy) if bits == 8 else noisy.astype(np.float32).astype(float), 0.08)
    assert 0.07 < found.sigma / 2 < 0.09


@pytest.mark.parametrize("black", [0.3, 0.6])
def test_noise_that_was_clipped_to_the_range_of_the_file(black):
    _, base = disc(black)
    right(in_8_bits(base + noise(base.shape, 0.08)), 0.08)
    right(in_8_bits(-base + noise(base.shape, 0.08)), 0.08)  # a white background


@pytest.mark.parametrize("part", [slice(0, 1), slice(1, 3)])
def test_constant_channels(part):
    noisy = in_8_bits(CAT + noise(CAT.shape, 0.05))
    noisy[part] = -0.2
    assert noise_level(noisy).sigma / 2 == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("missing", [0.05, 0.25])
def test_missing_pixels(missing):
    known = np.random.default_rng(1).random((1, *CAT.shape[1:])) > missing
    noisy = CAT + noise(CAT.shape, 0.05)
    right(np.where(known, noisy, 5.0), 0.05, known=known)


@pytest.mark.parametrize("side", [16, 24, 32])
def test_small_pictures(side):
    errors = [right(noise((3, side, side), 0.05, seed), 0.05).error for seed in range(5)]
    assert min(errors) > 0.02 * 0.1


def graphic():
    image = Image.new("RGB", (256, 256), "white")
    draw, rng = ImageDraw.Draw(image), np.random.default_rng(0)
    for _ in range(30):
        x, y, size = (int(v) for v in rng.integers(0, 200, 3))
        draw.ellipse([x, y, x + size, y + size], fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
        draw.text((x, y), "words and more words", fill="black")
    return image


def pictured(image):
    return np.atleast_3d(np.asarray(image, dtype=float)).transpose(2, 0, 1) / 127.5 - 1


def jpeg(picture, quality, **options):
    file = io.BytesIO()
    Image.fromarray(np.rint((picture.clip(-1, 1) + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0)).save(
        file, "JPEG", quality=quality, **options
    )
    return pictured(Image.open(file))


REFUSED = {
    "white": (np.ones((3, 64, 64)), "100% are in constant areas"),
    "constant": (np.full((1, 64, 64), 0.3), "100% are in constant areas"),
    "saturated": (in_8_bits(1 + noise((3, 64, 64), 0.05)), "saturated"),
    "two values": (np.sign(noise((1, 64, 64), 1.0)), "saturated"),
    "drawing": (pictured(graphic()), "several constant values|cannot be told"),
    "smooth drawing": (
        pictured(graphic().resize((150, 150), Image.Resampling.LANCZOS)),
        "several constant values|cannot be told",
    ),
    "tiny": (noise((1, 8, 8), 0.05), "too few pixels show the noise.* a picture of 8 x 8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    picture, why = REFUSED[name]
    with pytest.raises(ValueError, match=why):
        noise_level(picture)


@pytest.mark.parametrize("level", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("quality", [30, 75, 90])
@pytest.mark.parametrize("crop", [0, 3])
def test_compression_is_refused(level, quality, crop):
    compressed = jpeg(CAT + noise(CAT.shape, level), quality)[:, crop:, crop:]
    with pytest.raises(ValueError, match="8 x 8 blocks of JPEG"):
        noise_level(compressed)


def test_light_compression_is_not():
    assert noise_level(jpeg(CAT + noise(CAT.shape, 0.05), 99, subsampling=0)).sigma / 2 == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("bits", [8, 32])
def test_smooth_pictures_without_noise(bits):
    y, x = np.mgrid[:SIDE, :SIDE]
    smooth = (0.5 * np.sin(x / 9) * np.cos(y / 7))[None]
    found = noise_level(in_8_bits(smooth) if bits == 8 else smooth)
    assert found.sigma / 2 < 0.0015  # rounding to 8 bits is noise of 0.0011


def test_one_grid_position_is_not_taken_for_compression_by_chance():
    for seed in range(20):
        noise_level(noise((1, 64, 64), 0.05, seed))


class TestNoiseModel:
    def test_estimate(self):
        noisy = torch.from_numpy(np.stack([CAT, ROCKET]) + noise((2, *CAT.shape), 0.05)).float()
        assert GaussianNoise.estimate(noisy).sigma == pytest.approx(0.1, rel=0.1)

    def test_unknown_pixels_may_be_anything(self):
        noisy = torch.from_numpy(CAT + noise(CAT.shape, 0.05))[None]
        known = torch.ones(1, 1, *CAT.shape[1:], dtype=torch.bool)
        known[..., 50:90, 60:100] = False
        hidden = torch.where(known, noisy, torch.nan)
        assert GaussianNoise.estimate(hidden, known=known).sigma == pytest.approx(0.1, rel=0.1)
        with pytest.raises(ValueError, match="expected finite pictures"):
            GaussianNoise.estimate(hidden)

    @pytest.mark.parametrize("shape", [(3, 32, 32), (0, 3, 32, 32)])
    def test_shapes(self, shape):
        with pytest.raises(ValueError, match=r"expected finite pictures \(B, C, H, W\)"):
            GaussianNoise.estimate(torch.zeros(shape))
