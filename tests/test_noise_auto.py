"""``--noise auto`` of every problem that takes it, and levels too small to represent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data

from invdiff import PosteriorSampler, operators
from invdiff.io.images import write_image
from invdiff.priors import Gaussian
from invdiff.problems import OptionError
from invdiff.restoration import prepare, read

LEVEL = 0.08
CAT = data.chelsea()[60:188, 120:248].transpose(2, 0, 1) / 127.5 - 1
PROBLEMS = {
    "denoise": {},
    "sr": {"factor": 2},
    "deblur": {"kernel": "gaussian:1"},
    "defocus": {"radius": 1.5},
    "motion-deblur": {"length": 3, "angle": 0},
    "outpaint": {"margin": 4},
    "inpaint": {"mask": "mask.png"},
    "declip": {"clip_high": 0.9},
    "colorize": {},
    "demosaic": {"pattern": "RGGB"},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hole = np.zeros((1, *CAT.shape[1:]))
    hole[:, 40:60, 50:80] = 1
    write_image("mask.png", 2 * hole - 1)
    return tmp_path


def noisy(*, gray, black=0.0):
    clean = CAT.mean(0, keepdims=True) if gray else CAT
    y, x = np.mgrid[: clean.shape[1], : clean.shape[2]] - clean.shape[1] / 2
    inside = x**2 + y**2 < (1 - black) * x.size / np.pi if black else np.ones(x.shape, bool)
    return np.where(inside, clean + 2 * LEVEL * np.random.default_rng(0).standard_normal(clean.shape), -1.0)


@pytest.mark.parametrize("black", [0.0, 0.6])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_problem(folder, problem, black):
    write_image("in.png", noisy(gray=problem in ("colorize", "demosaic"), black=black))
    measured = read("in.png", problem, noise="auto", **PROBLEMS[problem])
    assert measured.observed.noise.sigma / 2 == pytest.approx(LEVEL, rel=0.15)
    (note,) = (note for note in measured.notes if note.startswith("noise: estimated 0.0"))
    assert " +- 0.0" in note


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("problem", ["denoise", "sr", "inpaint"])
def test_constant_pictures_are_refused_by_name(folder, problem, value):
    write_image("in.png", np.full((3, 128, 128), 2 * value - 1))
    with pytest.raises(
        ValueError, match=r"in.png: --noise auto: too few pixels show the noise: \d+% .*Give the level, --noise"
    ):
        read("in.png", problem, noise="auto", **PROBLEMS[problem])


def test_a_clean_picture_has_the_noise_of_its_rounding(folder):
    y, x = np.mgrid[:96, :96]
    write_image("in.png", (0.5 * np.sin(x / 9) * np.cos(y / 7))[None])
    measured = read("in.png", "sr", noise="auto", factor=2)
    assert measured.observed.noise.sigma / 2 == pytest.approx(1 / 255 / 12**0.5, rel=0.3)


def test_denoising_finds_no_noise(folder):
    y, x = np.mgrid[:96, :96]
    np.save("in.npy", 0.5 + 0.2 * np.sin(x / 9) * np.cos(y / 7))
    with pytest.raises(ValueError, match=r"in\.npy: --noise auto: no noise is found in INPUT"):
        read("in.npy", "denoise", noise="auto")


@pytest.mark.parametrize("level", [1e-30, 1e-20, 9e-8])
class TestTinyLevels:
    def test_are_taken_as_0(self, folder, level):
        write_image("in.png", CAT)
        measured = read("in.png", "sr", noise=level, factor=2)
        assert measured.observed.noise.sigma == 0
        assert any(note.startswith(f"noise {level:g}: taken as 0") for note in measured.notes)

    def test_do_not_count_as_above_0(self, folder, level):
        write_image("in.png", CAT)
        with pytest.raises(OptionError, match="--noise above 0"):
            prepare("in.png", {"problem": "denoise", "noise": level})

    @pytest.mark.parametrize("law", ["laplace:{:g}", "student:{:g},3", "poisson:1e{:g}"])
    def test_of_other_distributions_are_refused(self, folder, level, law):
        write_image("in.png", CAT)
        with pytest.raises(OptionError, match="less than rounding"):
            read("in.png", "sr", noise=law.format(15 if "poisson" in law else level), factor=2)


@pytest.mark.parametrize(("sigma_y", "dtype"), [(1e-25, torch.float32), (1e-170, torch.float64)])
def test_the_sampler_refuses_a_level_whose_square_underflows(sigma_y, dtype):
    sampler = PosteriorSampler(Gaussian(torch.zeros(16), torch.eye(16)), operators.Identity((16,), sigma_y=sigma_y))
    with pytest.raises(ValueError, match=r"noise level .* is too small for torch.float.*0 for exact data"):
        sampler.run(torch.zeros(1, 16, dtype=dtype))
