"""Noise that is taken where none is given: of a JPEG file from its tables, else estimated, else the rounding to its bits."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import invdiff
from invdiff.cli.summary import summary
from invdiff.io.images import write_image
from invdiff.posterior.misfit import misfit_notes
from invdiff.problems import PROBLEMS, OptionError
from invdiff.problems.jpeg_noise import jpeg_noise
from invdiff.restoration import read

pytestmark = pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")
CAT = data.chelsea()[60:156, 120:248]
RESTORED = {
    "deblur": {"kernel": "gaussian:1"},
    "defocus": {"radius": 1.5},
    "motion-deblur": {"length": 3, "angle": 0},
    "sr": {"factor": 2},
    "denoise": {},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def level(measured):
    return measured.observed.sigma_y / 2


def saved(name, pixels=CAT, **options):
    Image.fromarray(pixels).save(name, **options)
    return name


def rms(name, pixels=CAT):
    with Image.open(name) as image:
        return math.sqrt(np.mean((np.asarray(image, dtype=float) - pixels) ** 2)) / 255


class TestTables:
    @pytest.mark.parametrize("quality", [50, 75, 90])
    @pytest.mark.parametrize("mode", ["RGB", "L"])
    def test_the_level_is_that_of_the_rounding(self, folder, quality, mode):
        pixels = np.asarray(Image.fromarray(CAT).convert(mode))
        saved("a.jpg", pixels, quality=quality)
        assert 0.5 < jpeg_noise("a.jpg") / 2 / rms("a.jpg", pixels) < 2
        with Image.open("a.jpg") as image:
            tables: Any = image
            step = math.sqrt(np.square(tables.quantization[0]).mean())
        assert (
            quality > 80 or jpeg_noise("a.jpg") / 2 < 0.9 * step / math.sqrt(12) / 255
        )  # zeros are rounded by less than half a step

    def test_a_plane_of_zeros_has_the_rounding_of_pixels_alone(self, folder):
        saved("a.jpg", np.full((32, 32), 128, np.uint8), quality=98)
        assert jpeg_noise("a.jpg") / 2 < 0.004


@pytest.mark.parametrize("name", RESTORED)
class TestDefault:
    def test_jpeg_files_tell_their_rounding(self, folder, name):
        saved("a.jpg", quality=60)
        measured = read("a.jpg", name, **RESTORED[name])
        assert level(measured) == pytest.approx(jpeg_noise("a.jpg") / 2)
        assert any(
            note == f"noise: {level(measured):.4f} from the tables of the JPEG, pixels spanning 0..1" for note in measured.notes
        )

    def test_by_content(self, folder, name):
        saved("a.png", quality=60, format="JPEG")
        assert level(read("a.png", name, **RESTORED[name])) == pytest.approx(jpeg_noise("a.png") / 2)

    def test_other_files_are_estimated(self, folder, name):
        noise = np.random.default_rng(0).normal(0, 0.05, (3, *CAT.shape[:2]))
        smooth = np.linspace(0.2, 0.8, CAT.shape[1]) + noise
        write_image("a.png", 2 * smooth - 1)
        for source in ("a.png", smooth):
            measured = read(source, name, **RESTORED[name])
            assert 0.045 < level(measured) < 0.055
            assert any(note.startswith("noise: estimated 0.05") for note in measured.notes)

    def test_zero_is_respected(self, folder, name):
        saved("a.jpg", quality=60)
        if name == "denoise":
            with pytest.raises(OptionError, match="needs --noise above 0"):
                read("a.jpg", name, noise=0)
            return
        measured = read("a.jpg", name, noise=0, **RESTORED[name])
        assert level(measured) == 0
        assert any("noise 0: INPUT is taken as exact" in note and "leave --noise out" in note for note in measured.notes)

    def test_simulations_add_none(self, folder, name):
        if name == "denoise":
            with pytest.raises(OptionError, match="needs --noise above 0"):
                read(CAT.transpose(2, 0, 1), name, simulate=True)
        else:
            assert level(read(CAT.transpose(2, 0, 1), name, simulate=True, **RESTORED[name])) == 0
        with pytest.raises(OptionError, match="--noise file is for a measured INPUT"):
            read(CAT.transpose(2, 0, 1), name, simulate=True, noise="file", **RESTORED[name])


def test_what_cannot_be_estimated_is_the_rounding_and_said(folder):
    texture = np.random.default_rng(0).integers(0, 2, (64, 64)) * 255
    write_image("a.png", 2 * texture[None] / 255 - 1, bits=8)
    for bits, size in ((8, 1 / 255), (16, 1 / 65535)):
        write_image("a.png", 2 * texture[None] / 255 - 1, bits=bits)
        measured = read("a.png", "sr", factor=2)
        assert level(measured) == pytest.approx(size / math.sqrt(12))
        assert any(f"the rounding to {bits} bits, because it cannot be estimated (" in note for note in measured.notes)
    with pytest.raises(ValueError, match=r"a\.png: --noise file: .*Give the level"):
        read("a.png", "denoise")  # it would remove nothing


def test_results_may_fit_a_rounded_picture_better_than_its_noise(folder, tiny_prior):
    saved("a.jpg", np.full((32, 32), 128, np.uint8), quality=5)  # constant: the true rounding is far below its usual size
    few = {"problem": "denoise", "prior": str(tiny_prior), "precision": "float32", "steps": 1, "samples": 1}
    result = invdiff.restore("a.jpg", **few)
    assert result.measured.rounded
    assert result.record["rounded"] is True
    flat = result.measured.measurement
    for rounded, said in ((True, 0), (False, 1)):
        op = result.measured.observed
        found = misfit_notes(torch.zeros(1, 1), op.dof, torch.ones(1, 1), op=op, y=flat, ratio_min=0.01, rounded=rounded)
        assert len(found) == said
    text = summary({**result.record, "best": "sample-1.png", "output": ""})
    assert "1 or below is right for the rounding of a JPEG" in text
    assert not read("a.jpg", "denoise", noise=0.1).rounded


def test_noise_that_survives_compression_counts(folder):
    rng = np.random.default_rng(0)
    smooth = 60 + 120 * np.linspace(0, 1, 128) + rng.normal(0, 12, (128, 128))
    saved("a.jpg", np.uint8(smooth.clip(0, 255)), quality=92)
    measured = read("a.jpg", "deblur", kernel="gaussian:1")
    assert level(measured) > 1.2 * jpeg_noise("a.jpg") / 2
    assert 0.7 * 12 / 255 < level(measured) < 1.2 * 12 / 255
    assert any("after JPEG compression" in note for note in measured.notes)


def test_the_levels_of_the_file_count(folder):
    saved("a.jpg", quality=60)
    assert level(read("a.jpg", "sr", factor=2, white=510)) == pytest.approx(jpeg_noise("a.jpg") / 4)


def test_problems_whose_pixels_are_kept_take_them_as_exact(folder):
    saved("a.jpg", quality=60)
    assert level(read("a.jpg", "outpaint", margin=2)) == level(read("a.jpg", "declip", clip_high=0.9)) == 0
    assert level(read(CAT[..., 0], "colorize")) == 0
    kept = {"inpaint", "outpaint", "colorize", "declip"}
    assert all(PROBLEMS[name].exact_is_usual and PROBLEMS[name].default_noise == "0" for name in kept)
    found = {name for name in PROBLEMS if PROBLEMS[name].default_noise == "file"}
    assert found == {*RESTORED, "demosaic", "mri"}


def test_the_record_repeats_the_run(folder, tiny_prior):
    saved("a.jpg", quality=60)
    few = {"prior": str(tiny_prior), "precision": "float32", "steps": 1, "samples": 1}
    result = invdiff.restore("a.jpg", problem="sr", factor=2, **few)
    record = json.loads((result.save("out") / "run.json").read_text())
    assert record["arguments"]["noise"] == "file"
    assert record["noise_level"] == pytest.approx(jpeg_noise("a.jpg") / 2, rel=1e-3)
    again = invdiff.restore("a.jpg", problem="sr", factor=2, noise=record["arguments"]["noise"], **few)
    assert torch.equal(again.pictures, result.pictures)
    other = invdiff.restore("a.jpg", problem="sr", factor=2, noise=0.2, **few)
    assert not torch.equal(other.pictures, result.pictures)
