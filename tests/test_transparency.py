"""Colors of invisible pixels are arbitrary: none of them reaches a result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import invdiff
from invdiff.io.images import read_image, write_image
from invdiff.restoration import read

SIDES = (16, 24)
COLOURS = ([1, -1, 1], [-1, 1, 0.2])  # underneath the invisible pixels
PROBLEMS = {
    "inpaint": {"mask": "mask.png"},
    "denoise": {"noise": 0.05},
    "outpaint": {"margin": 2},
    "deblur": {"kernel": "gaussian:0.7", "noise": 0.05},
    "defocus": {"radius": 1.5, "noise": 0.05},
    "motion-deblur": {"length": 3, "angle": 45, "noise": 0.05},
    "sr": {"factor": 2, "noise": 0.05},
    "declip": {"clip_high": 0.9},
    "dequantize": {"levels": 5},
    "colorize": {},
    "demosaic": {"pattern": "RGGB"},
}
GRAY = ("colorize", "demosaic")
pytestmark = pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")  # two steps of an untrained prior


@pytest.fixture
def few(tmp_path, monkeypatch, tiny_prior):
    monkeypatch.chdir(tmp_path)
    mask = np.zeros(SIDES, dtype=np.uint8)
    mask[4:9, 10:17] = 255
    Image.fromarray(mask).save("mask.png")
    return {"prior": str(tiny_prior), "precision": "float32", "steps": 2, "samples": 2}


def opacity():
    alpha = np.ones(SIDES)
    alpha[2:7, 3:12] = 0
    alpha[12:14, 15:20] = 0.4
    return np.rint(alpha * 255) / 255


def picture(colour, *, gray):
    """The same picture, with another color underneath the invisible pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, *SIDES)) / 127.5 - 1
    pixels[:, opacity() == 0] = np.array(colour)[:, None]
    return pixels[1:2] if gray else pixels


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("simulate", [False, True])
def test_no_result_depends_on_invisible_colors(few, problem, simulate):
    results = []
    for number, colour in enumerate(COLOURS):
        gray = problem in GRAY and not simulate
        write_image(f"in{number}.png", picture(colour, gray=gray), alpha=opacity())
        results.append(invdiff.restore(f"in{number}.png", problem=problem, simulate=simulate, **PROBLEMS[problem], **few))
    assert any("transparent (alpha 0)" in note for note in results[0].notes)
    assert_close(results[0].mean, results[1].mean, rtol=0, atol=1e-5)


class TestInpaintWithAMask:
    def test_invisible_pixels_are_filled_too(self, few):
        write_image("in.png", picture(COLOURS[0], gray=False), alpha=opacity())
        result = invdiff.restore("in.png", problem="inpaint", mask="mask.png", **few)
        unknown = read_image("mask.png").pixels[0] > 0
        unknown |= opacity() == 0
        assert_close(vars(result.measured.problem)["mask"], torch.from_numpy(~unknown))
        result.save("out")
        written = read_image("out/mean.png")
        assert written.alpha is not None
        assert (written.alpha[unknown] == 1).all()
        assert_close(written.alpha[~unknown], opacity()[~unknown])
        assert_close(written.pixels[:, ~unknown], read_image("in.png").pixels[:, ~unknown])

    def test_partly_transparent_pixels_are_measured(self, few):
        write_image("in.png", picture(COLOURS[0], gray=False), alpha=np.maximum(opacity(), 1 / 255))
        measured = read("in.png", "inpaint", mask="mask.png")
        assert measured.problem.facts()["missing"] == pytest.approx(35 / 384, abs=1e-3)

    def test_a_mask_of_another_size_is_still_refused_by_name(self, few):
        write_image("in.png", picture(COLOURS[0], gray=False)[:, :8], alpha=opacity()[:8])
        with pytest.raises(ValueError, match="must be the same size"):
            read("in.png", "inpaint", mask="mask.png")


@pytest.mark.parametrize("problem", [name for name in PROBLEMS if name != "inpaint"])
def test_a_picture_without_a_visible_pixel_is_refused(few, problem):
    write_image("in.png", picture(COLOURS[0], gray=problem in GRAY), alpha=np.zeros(SIDES))
    with pytest.raises(ValueError, match=r"in\.png: all pixels are transparent"):
        read("in.png", problem, **PROBLEMS[problem])


def test_denoising_counts_visible_pixels_alone(few):
    write_image("in.png", picture(COLOURS[0], gray=False), alpha=opacity())
    measured = read("in.png", "denoise", noise=0.05)
    assert measured.observed.dof == 3 * int((opacity() > 0).sum())
    assert_close(measured.picture.alpha, opacity())
