"""``invdiff mask``, and ``invdiff solve --problem inpaint --mask auto``."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from skimage import data

from invdiff.cli import main
from invdiff.cli.mask import FIND, mask
from invdiff.damage import KINDS, SENSITIVITY, THICKNESS
from invdiff.io.images import read_image, read_mask

SIDE = 96


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a photograph with a white scratch, ``photo.png``, and one that is flat, ``flat.png``."""
    monkeypatch.chdir(tmp_path)
    pixels = data.chelsea()[60 : 60 + SIDE, 140 : 140 + SIDE].copy()
    pixels[40:43, 8:88] = 245
    Image.fromarray(pixels).save("photo.png")
    Image.new("RGB", (SIDE, SIDE), (90, 120, 150)).save("flat.png")
    return tmp_path


class TestMask:
    def test_it_writes_the_mask_and_says_what_to_do(self, place):
        done = run("mask", "photo.png")
        assert done.exit_code == 0, done.output
        known = read_mask(place / "photo-mask.png")
        assert (~known[40:43, 12:84]).mean() > 0.8
        assert (~known).mean() < 0.08
        assert read_image(place / "photo-mask-overlay.png").pixels.shape == (3, SIDE, SIDE)
        assert f"{(~known).mean():.2%} of the pixels (scratches" in done.output
        assert "invdiff solve photo.png --problem inpaint --mask photo-mask.png" in done.output

    def test_nothing_found_is_an_error_that_says_what_to_do(self, place):
        done = run("mask", "flat.png")
        assert done.exit_code == 1
        assert "flat.png: no damage is found, and nothing is written. Try a higher --sensitivity (now 0.3)" in done.output
        assert sorted(path.name for path in place.iterdir()) == ["flat.png", "photo.png"]

    def test_a_corrected_mask_is_not_replaced_unless_told(self, place):
        Image.new("L", (SIDE, SIDE), 255).save("photo-mask.png")
        done = run("mask", "photo.png")
        assert done.exit_code == 2
        assert "photo-mask.png exists" in done.output
        assert read_image(place / "photo-mask.png").pixels.min() == 1
        assert run("mask", "photo.png", "--overwrite").exit_code == 0
        assert run("mask", "photo.png", "--overwrite").exit_code == 0  # over its own files
        assert read_image(place / "photo-mask.png").pixels.min() == -1

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (("photo.png", "-o", "photo.png", "--overwrite"), 1, "photo.png is read by this run"),
            (("photo.png", "-o", "flat.png", "--overwrite"), 1, "flat.png exists and is not a mask"),
            (("photo.png", "-o", "mask.jpg"), 2, "the name must end in .png"),
            (("photo.png", "-o", "none/mask.png"), 1, "there is no folder none"),
            (("photo.png", "--sensitivity", "1"), 2, "--sensitivity"),
            (("photo.png", "--find", "stains"), 2, "'stains' is not one of 'all', 'scratches', 'dust', 'stamp'"),
            (("missing.png",), 1, "missing.png"),
            (("photo.png", "--thickness", "500"), 1, "thickness must be from 1 pixel to the side of the picture, got 500"),
        ],
    )
    def test_bad_input(self, place, arguments, code, message):
        before = (place / "photo.png").read_bytes()
        done = run("mask", *arguments)
        assert (done.exit_code, message in " ".join(done.output.split())) == (code, True), done.output
        assert (place / "photo.png").read_bytes() == before

    def test_the_kinds_are_those_of_the_library(self):
        assert FIND == ("all", *KINDS)  # noqa: SIM300
        defaults = {option.name: option.default for option in mask.params}
        assert (defaults["sensitivity"], defaults["thickness"]) == (SENSITIVITY, THICKNESS)


class TestAuto:
    SOLVE = ("--problem", "inpaint", "--samples", "1", "--steps", "2", "-o", "out")

    def test_the_scratch_is_filled_and_the_rest_is_kept(self, place):
        done = run("solve", "photo.png", *self.SOLVE, "--mask", "auto")
        assert done.exit_code == 0, done.output
        before, after = read_image(place / "photo.png").pixels, read_image(place / "out" / "sample-1.png").pixels
        changed = (before != after).any(0)
        assert changed[40:43, 12:84].mean() > 0.8
        assert changed.mean() < 0.08
        record = json.loads((place / "out" / "run.json").read_text())
        assert record["arguments"]["mask"] == "auto"
        assert any("--mask auto marks" in note and "a proposal" in note for note in record["notes"])

    def test_the_color_to_keep_does_not_matter(self, place):
        done = run("solve", "photo.png", *self.SOLVE, "--mask", "auto", "--mask-keep", "white")
        assert done.exit_code == 0, done.output
        changed = (read_image(place / "photo.png").pixels != read_image(place / "out" / "sample-1.png").pixels).any(0)
        assert changed.mean() < 0.08

    def test_nothing_found_is_an_error_that_says_what_to_do(self, place):
        done = run("solve", "flat.png", *self.SOLVE, "--mask", "auto")
        assert done.exit_code == 1
        assert "--mask auto finds no damage. Try `invdiff mask` with a higher" in done.output

    def test_a_file_of_that_name_can_be_read(self, place):
        hole = np.zeros((SIDE, SIDE), np.uint8)
        hole[5:9, 5:9] = 255
        Image.fromarray(hole).save(place / "auto", format="png")
        done = run("solve", "photo.png", *self.SOLVE, "--mask", "./auto")
        assert done.exit_code == 0, done.output
        changed = (read_image(place / "photo.png").pixels != read_image(place / "out" / "sample-1.png").pixels).any(0)
        assert changed[5:9, 5:9].any()
        assert not changed[10:].any()

    @pytest.mark.parametrize("arguments", [("photo.png", "--simulate"), ()])
    def test_a_clean_picture_has_no_damage_to_propose(self, place, arguments):
        done = run("solve", *arguments, *self.SOLVE, "--mask", "auto")
        assert done.exit_code == 2
        assert "--mask auto: it is proposed from a measured INPUT" in " ".join(done.output.split())

    def test_calibration_takes_a_file(self, place):
        done = run("calibrate", place, "--problem", "inpaint", "--mask", "auto", "--noise", "0.1")
        assert done.exit_code == 2
        assert "--mask auto: it is proposed from a measured INPUT" in " ".join(done.output.split())
