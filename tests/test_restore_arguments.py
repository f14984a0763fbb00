"""Arguments of ``invdiff.restore`` that are not what they should be: each is named, with what was expected."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from invdiff import restore
from invdiff.io.images import write_image

PICTURE = np.random.default_rng(0).uniform(0, 1, (3, 16, 24))
HUGE = 10**30


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"samples": HUGE}, "--samples: expected at most 1,000,000"),
        ({"steps": HUGE}, "--steps: expected at most 1,000,000"),
        ({"tile": HUGE}, "--tile: expected at most 65,536"),
        ({"tile": 8.0}, "tile must be one or two whole numbers"),
        ({"method": 3}, "method 3: expected a Method"),
        ({"method": None}, "method None: expected a Method"),
        ({"option": 3}, r"option: expected a mapping from names, such as \{'zeta': 0.5\}, got 3"),
        ({"option": "zeta=1"}, "option: expected a mapping from names"),
        ({"option": ["zeta=1"]}, "option: expected a mapping from names"),
        ({"method": "dps", "option": {"zeta": "x"}}, "zeta must be a number, such as 1.0, got 'x'"),
        ({"method": "dps", "option": {"zeta": None}}, "zeta must be a number, such as 1.0, got None"),
        ({"prior_option": 3}, "prior_option: expected a mapping from names"),
        ({"prior_option": {3: 3}}, "prior_option: expected a mapping from names"),
        ({"prior_option": {"device": "cpu"}}, "prior_option: device is not an option of a checkpoint, use device"),
        ({"prior": None}, "prior: expected a name, the path of a checkpoint, or a ScoreModel, got NoneType"),
        ({"prior": torch.nn.Identity()}, "got Identity. A network becomes one by invdiff.priors.from_network"),
        ({"device": None}, "--device None cannot be used here"),
        ({"calibration": {}}, "calibration: expected the path of a file, or 'natural', got {}"),
        ({"kernel": "", "problem": "deblur", "factor": None}, "--kernel: the value is empty, expected FILE"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(given, message, tiny_prior):
    few = {"problem": "sr", "factor": 2, "prior": tiny_prior, "precision": "float32", "steps": 2, "samples": 2}
    settings = {name: value for name, value in {**few, **given}.items() if name != "factor" or value is not None}
    with pytest.raises((ValueError, TypeError), match=message):
        restore(PICTURE, **settings)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ({"problem": "colorize"}, "expected a grayscale one"),
        ({"problem": "demosaic", "pattern": "RGGB"}, "the mosaic has 3 channels"),
        ({"problem": "inpaint", "mask": np.zeros((3, 3))}, "the mask leaves nothing to fill"),
        ({"problem": "outpaint", "margin": 20, "simulate": True}, "margins of 20 pixels leave nothing"),
        ({"problem": "defocus", "radius": 30}, "is larger than the image"),
        ({"problem": "denoise", "noise": "auto"}, "too few pixels show the noise"),
    ],
    ids=str,
)
def test_errors_of_a_problem_name_the_file(problem, message, tiny_prior, tmp_path):
    path = tmp_path / "some.png"
    write_image(path, 2 * PICTURE[:, :6, :] - 1)
    with pytest.raises(ValueError, match=message) as error:
        restore(path, prior=tiny_prior, precision="float32", **problem)
    assert str(error.value).startswith(f"{path}: ")


def test_results_of_hidden_files_are_not_hidden(tiny_prior, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(".some.png", 2 * PICTURE - 1)
    result = restore(".some.png", problem="denoise", noise=0.1, prior=tiny_prior, precision="float32", steps=2, samples=2)
    assert result.save().name == "some-denoise"


def test_deeply_nested_calibrations_are_damaged(tiny_prior, tmp_path):
    path = tmp_path / "widths.json"
    path.write_text("[" * 100_000)
    few = {"prior": tiny_prior, "precision": "float32", "steps": 2, "samples": 2}
    with pytest.raises(ValueError, match=r"widths\.json is damaged or not a calibration file"):
        restore(PICTURE, problem="denoise", noise=0.1, calibration=path, **few)


@pytest.mark.parametrize("setting", ["steps", "tile"])
def test_limits_hold_for_calibrations(invdiff, tiny_prior, tmp_path, setting):
    (tmp_path / "photos").mkdir()
    how = ("--problem", "sr", "--factor", 2, "--noise", 0.1, "--prior", tiny_prior, f"--{setting}", HUGE)
    assert f"--{setting}" in invdiff("calibrate", "photos", *how, code=2).stderr


def test_a_dark_picture_has_a_preview(tiny_prior):
    few = {"prior": tiny_prior, "precision": "float32", "steps": 2, "samples": 2}
    result = restore(0 * PICTURE, problem="phase-retrieval", codes=2, noise=0.1, simulate=True, **few)
    y = 0 * result.measured.measurement
    assert result.measured.problem.preview(y).isfinite().all()
