"""Damage that was drawn is found, and little is found where none was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage import data

import invdiff
from invdiff.damage import KINDS, find_damage
from invdiff.damage.prediction import prediction
from invdiff.io.images import read_mask
from invdiff.priors import Gaussian, load_prior
from invdiff.schedules import VE

SIDE = 160


@pytest.fixture(scope="module")
def natural():
    return load_prior("natural", device="cpu")


@pytest.fixture(scope="module")
def cat():
    """A part of the photograph of a cat, ``(3, H, W)`` spanning [-1, 1]."""
    return torch.from_numpy(data.chelsea()[40 : 40 + SIDE, 140 : 140 + SIDE] / 127.5 - 1).float().permute(2, 0, 1)


def drawn(draw):
    canvas = Image.new("L", (4 * SIDE, 4 * SIDE))
    draw(ImageDraw.Draw(canvas))
    return np.asarray(canvas.reduce(4)) / 255


def scratched(x):
    """Return a picture with two white scratches, and where they are."""

    def draw(draw):
        draw.line([(40, 100), (300, 180), (600, 210)], fill=255, width=10)
        draw.line([(120, 600), (260, 380), (300, 330)], fill=255, width=12)

    return painted(x, drawn(draw), (0.95, 0.95, 0.95))


def stamped(x):
    """Return a picture with an orange date, and where it is."""
    font = ImageFont.load_default(72)
    return painted(x, drawn(lambda draw: draw.text((280, 540), "24 9 '98", fill=255, font=font)), (1, 0.1, -0.8))


def painted(x, opacity, color):
    opacity = torch.from_numpy(opacity).float()
    result = x * (1 - opacity) + opacity * torch.tensor(color)[:, None, None]
    return result, ((result - x).abs().amax(0) > 0.05).numpy()


def found_and_right(mask, truth):
    """Return recall, and precision within one pixel."""
    return (mask & truth).sum() / truth.sum(), (mask & ndimage.binary_dilation(truth, np.ones((3, 3), bool))).sum() / max(
        mask.sum(), 1
    )


def test_scratches_are_found(natural, cat):
    picture, truth = scratched(cat)
    found = find_damage(picture, natural)
    recall, precision = found_and_right(found.mask, truth)
    assert recall > 0.7
    assert precision > 0.7
    assert found.shares["scratches"] > 0.7 * found.share
    assert sum(found.shares.values()) == pytest.approx(found.share)
    assert found.probability.shape == found.mask.shape == (SIDE, SIDE)


def test_a_date_stamp_is_found_and_told_from_scratches(natural, cat):
    picture, truth = stamped(cat)
    recall, precision = found_and_right(find_damage(picture, natural, find="stamp").mask, truth)
    assert recall > 0.7
    assert precision > 0.7
    assert (find_damage(picture, natural, find="dust").mask & truth).sum() < 0.3 * truth.sum()


def test_little_is_marked_where_there_is_no_damage(natural, cat):
    assert find_damage(cat, natural).share < 0.01


def test_more_sensitivity_marks_more(natural, cat):
    picture, _ = scratched(cat)
    few, many = (find_damage(picture, natural, sensitivity=value).mask for value in (0.1, 0.9))
    assert few.sum() < many.sum()
    assert not (few & ~many).any()


def test_wide_scratches_need_the_thickness(natural, cat):
    picture, truth = scratched(cat)
    wide = torch.nn.functional.interpolate(picture[None], scale_factor=3.0, mode="bicubic")[0]
    truth = truth.repeat(3, 0).repeat(3, 1)
    narrow_only, both = (found_and_right(find_damage(wide, natural, thickness=t).mask, truth)[0] for t in (6, 16))
    assert both > 0.6
    assert both > narrow_only + 0.1


def test_gray_is_color_without_color(natural, cat):
    picture, _ = scratched(cat.mean(0, keepdim=True))
    gray, color = (find_damage(x, natural).probability for x in (picture[:1], picture[:1].expand(3, -1, -1)))
    np.testing.assert_allclose(gray, color, atol=1e-5)


def test_the_picture_is_not_changed(natural, cat):
    before = cat.clone()
    find_damage(cat, natural)
    assert torch.equal(cat, before)


def test_the_prediction_is_the_conditional_mean():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(16, 16, dtype=torch.float64, generator=generator)
    cov = root @ root.mT / 16 + 0.1 * torch.eye(16, dtype=torch.float64)
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64, generator=generator)
    hidden = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    hidden[..., 1:3, 2] = True
    h, k = hidden.flatten(), ~hidden.flatten()
    wanted = cov[h][:, k] @ torch.linalg.solve(cov[k][:, k], x.flatten()[k])
    score = Gaussian(torch.zeros(1, 4, 4, dtype=torch.float64), cov, schedule=VE())
    got = prediction(score, x, hidden)
    torch.testing.assert_close(got.flatten()[k], x.flatten()[k])
    torch.testing.assert_close(got.flatten()[h], wanted, rtol=0.05, atol=0.02)  # hidden pixels have noise of level 10


class TestWithoutSuchAPrior:
    def test_a_note_says_that_the_prior_does_not_serve(self, cat):
        class White(Gaussian):
            noise_kinds = frozenset()

        score = White(torch.zeros(3, SIDE, SIDE), torch.ones(3, SIDE, SIDE))
        found = find_damage(scratched(cat)[0], score)
        assert "does not accept a noise level for each pixel" in found.notes[0]
        np.testing.assert_array_equal(found.mask, find_damage(scratched(cat)[0], None).mask)
        assert found.mask.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sensitivity": 0}, "sensitivity must be above 0"),
        ({"sensitivity": 1.0}, "below 1, got 1.0"),
        ({"find": "stains"}, "kinds of damage among scratches, dust, stamp, got 'stains'"),
        ({"find": ()}, "kinds of damage"),
        ({"thickness": 0.5}, "thickness must be from 1 pixel"),
        ({"thickness": 9.0}, "got 9.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        find_damage(torch.zeros(3, 8, 8), None, **arguments)


@pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8), (1, 3, 8, 8)])
def test_bad_shapes(shape):
    with pytest.raises(ValueError, match="one or three channels"):
        find_damage(torch.zeros(shape), None)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 31), (3, 33, 8)])
def test_small_pictures(shape):
    assert find_damage(torch.zeros(shape), None, thickness=1).mask.shape == shape[1:]


class TestProposeMask:
    def test_files_and_arrays(self, natural, cat, tmp_path):
        picture, truth = scratched(cat)
        values = np.rint((picture.numpy() + 1) * 32767.5).clip(0, 65535).astype(np.uint16)
        found = invdiff.propose_mask(values, prior=natural)
        assert found_and_right(found.mask, truth)[0] > 0.7
        found.save(tmp_path / "mask.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), ~found.mask)
        found.save_overlay(tmp_path / "overlay.png")
        shown = np.asarray(Image.open(tmp_path / "overlay.png").convert("RGB"))
        assert (shown[found.mask] == (230, 0, 30)).all()
        assert (shown[~found.mask].min(-1) >= 96).all()

    def test_transparent_pixels_are_not_marked(self, natural, cat):
        picture, _ = scratched(cat)
        alpha = np.ones((1, SIDE, SIDE), dtype=np.float32)
        alpha[:, 60:70, 60:70] = 0
        values = np.rint((np.concatenate([(picture.numpy() + 1) / 2, alpha])).clip(0, 1) * 255).astype(np.uint8)
        image = Image.fromarray(values.transpose(1, 2, 0), "RGBA")
        assert not invdiff.propose_mask(image, prior=natural).mask[61:69, 61:69].any()

    def test_other_channels_are_refused(self):
        with pytest.raises(ValueError, match="expected a grayscale or color picture, got 5 channels"):
            invdiff.propose_mask(np.zeros((5, 9, 9), np.uint8), prior=None)

    def test_kinds_are_those_of_the_networks(self):
        from invdiff.damage.weights import fitted

        assert tuple(fitted()[2]["classes"]) == ("none", *KINDS)
