"""Arguments of ``invdiff.restore`` that are not what they should be: each is named, with what was expected."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import invdiff
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
        invdiff.restore(PICTURE, **settings)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ({"problem": "colorize"}, "expected a grayscale one"),
        ({"problem": "demosaic", "pattern": "RGGB"}, "the mosaic has 3 channels"),
        ({"problem": "inpaint", "mask": np.zeros((3, 3))}, "the mask leaves nothing to fill"),
        ({"problem": "outpaint", "margin": 20, "simulate": True}, "margins of 20 pixels leave nothing"),
        ({"problem": "defocus", "radius": 30}, "is larger than the image"),
        ({"problem": "denoise", "noise": "auto"}, "sides of at least 8 pixels"),
    ],
    ids=str,
)
def test_errors_of_a_problem_name_the_file(problem, message, tiny_prior, tmp_path):
    path = tmp_path / "some.png"
    write_image(path, 2 * PICTURE[:, :6, :] - 1)
    with pytest.raises(ValueError, match=message) as error:
        invdiff.restore(path, prior=tiny_prior, precision="float32", **problem)
    assert str(error.value).startswith(f"{path}: ")
