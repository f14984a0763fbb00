"""Blurred pictures that were cut out of a larger scene, as photographs are."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import invdiff
from invdiff.io.images import read_image, write_image
from invdiff.priors import Gaussian
from invdiff.problems import Deblur, Defocus, MotionDeblur
from invdiff.restoration import prepare, read

SIDES = (16, 24)
pytestmark = pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")  # two steps of an untrained prior
BLURS = {
    "deblur": {"kernel": "gaussian:0.7"},
    "defocus": {"radius": 1.5},
    "motion-deblur": {"length": 5, "angle": 30},
}


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_prior):
    values = np.random.default_rng(0).integers(0, 256, (3, *SIDES))
    write_image(tmp_path / "in.png", values / 127.5 - 1)
    monkeypatch.chdir(tmp_path)
    return {"prior": str(tiny_prior), "precision": "float32", "steps": 2, "samples": 2, "noise": 0.05}


@pytest.mark.parametrize("name", BLURS)
class TestEveryBlur:
    def test_the_scene_of_a_measured_picture_is_larger_than_it(self, folder, name):
        measured = read("in.png", name, noise=0.05, **BLURS[name])
        scene = torch.rand(1, *measured.observed.in_shape)
        assert measured.observed.out_shape == (3, *SIDES)
        assert min(a - b for a, b in zip(scene.shape[2:], SIDES, strict=True)) >= 2
        assert measured.problem.framed(scene).shape == (1, 3, *SIDES)

    def test_results_have_the_size_of_the_input(self, folder, name):
        result = invdiff.restore("in.png", problem=name, **BLURS[name], **folder)
        assert result.mean.shape == (3, *SIDES)
        assert result.posterior.samples.shape[-1] > SIDES[1]
        assert result.record["arguments"]["boundary"] == "valid"
        assert result.record["residual_expected"] == 3 * SIDES[0] * SIDES[1]

    @pytest.mark.parametrize("boundary", ["reflect", "zero", "circular"])
    def test_other_boundaries_on_request(self, folder, name, boundary):
        measured = read("in.png", name, noise=0.05, boundary=boundary, **BLURS[name])
        assert measured.observed.in_shape == measured.observed.out_shape == (3, *SIDES)

    def test_simulations_reflect_unless_told_otherwise(self, folder, name):
        measured = read("in.png", name, noise=0.05, simulate=True, **BLURS[name])
        assert vars(measured.problem)["boundary"] == "reflect"
        assert measured.observed.out_shape == (3, *SIDES)

    def test_a_simulated_picture_can_be_cut_out(self, folder, name, tmp_path):
        result = invdiff.restore("in.png", problem=name, boundary="valid", simulate=True, **BLURS[name], **folder)
        measured = result.measured
        assert result.mean.shape == measured.observed.out_shape
        assert measured.clean is not None
        truth = measured.problem.framed(measured.clean)[0]
        best = float(10 * torch.log10(4 / ((2 * result.mean - 1).clamp(-1, 1) - truth).square().mean()))
        assert result.record["metrics"]["psnr_mean"] == pytest.approx(best, abs=0.01)
        result.save("out")
        assert read_image("out/measurement.png").pixels.shape == read_image("out/mean.png").pixels.shape
        again = read("out/measurement.png", name, noise=0.05, **BLURS[name])
        assert again.observed.in_shape == measured.observed.in_shape

    def test_opacity_belongs_to_the_pixels_of_the_input(self, folder, name):
        alpha = np.random.default_rng(1).integers(1, 256, SIDES) / 255
        write_image("rgba.png", read_image("in.png").pixels, alpha=alpha)
        invdiff.restore("rgba.png", problem=name, **BLURS[name], **folder).save("out")
        assert_close(read_image("out/mean.png").alpha, alpha)
        simulated = prepare("rgba.png", {"problem": name, "boundary": "valid", "simulate": True, **BLURS[name], **folder})
        height, width = simulated.measured.observed.out_shape[1:]
        cropped = simulated.measured.picture.alpha
        assert cropped is not None
        assert cropped.shape == (height, width)


@pytest.mark.parametrize("rows", range(1, 6))
@pytest.mark.parametrize("columns", range(1, 6))
def test_what_is_framed_is_what_a_sharp_kernel_measures(rows, columns):
    point = torch.zeros(rows, columns)
    point[rows // 2, columns // 2] = 1
    point += 1e-300 if point.dtype == torch.float64 else 1e-30  # so that its zeros are not cut off
    problem = Deblur(point, boundary="valid")
    shape = problem.image_shape((2, 8, 9))
    x = torch.rand(1, *shape, dtype=torch.float64)
    assert shape == (2, 8 + rows - 1, 9 + columns - 1)
    assert_close(problem.framed(x), problem.operator(shape)(x))


@pytest.mark.parametrize("problem", [Defocus(5.0, boundary="valid"), MotionDeblur(11, 0, boundary="valid")])
def test_a_kernel_larger_than_the_picture_is_refused_by_name(problem):
    with pytest.raises(ValueError, match="larger than the image, 9 x 9"):
        problem.image_shape((3, 9, 9))


def test_zeros_around_a_kernel_do_not_enlarge_the_scene():
    kernel = torch.zeros(9, 12)
    kernel[3:6, 5:9] = torch.rand(3, 4)
    trimmed = Deblur(kernel, boundary="valid")
    assert trimmed.kernel.shape == (3, 6)
    x = torch.rand(1, 1, 20, 20, dtype=torch.float64)
    whole, part = (Deblur(k, boundary="circular").operator((1, 20, 20)) for k in (kernel + 1e-30, kernel))
    assert_close(whole(x), part(x))


def test_the_border_is_better_than_with_a_mirror():
    side, cut, margin = 20, 16, 2
    distance = (torch.arange(side).double()[:, None] - torch.arange(side)).abs()
    line = torch.exp(-((distance / 3) ** 2) / 2) + 1e-3 * torch.eye(side, dtype=torch.float64)
    covariance = 0.25 * torch.kron(line, line)
    generator = torch.Generator().manual_seed(0)
    scene = (torch.linalg.cholesky(covariance) @ torch.randn(400, 20, generator=generator, dtype=torch.float64)).T
    kernel = torch.ones(5, 5) / 25
    errors = {}
    for boundary, size in (("valid", side), ("reflect", cut)):
        part = line[:size, :size]
        prior = Gaussian(torch.zeros(1, size, size, dtype=torch.float64), 0.25 * torch.kron(part, part))
        problem = Deblur(kernel, boundary=boundary)
        y = Deblur(kernel, boundary="valid").operator((1, side, side))(scene.reshape(-1, 1, side, side))
        y = y + 0.02 * torch.randn(y.shape, generator=generator, dtype=torch.float64)
        op = problem.operator((1, size, size), noise=invdiff.operators.GaussianNoise(0.02))
        assert isinstance(op, invdiff.operators.LinearOperator)
        mean = problem.framed(prior.posterior(op, y).mean.reshape(-1, 1, size, size))
        truth = scene.reshape(-1, 1, side, side)[..., margin:-margin, margin:-margin]
        inner = torch.zeros(cut, cut, dtype=torch.bool)
        inner[4:-4, 4:-4] = True
        errors[boundary] = (mean - truth)[..., ~inner].square().mean().sqrt()
    assert errors["valid"] < 0.7 * errors["reflect"]


def test_a_calibration_made_with_another_border_says_so(folder):
    job = prepare("in.png", {"problem": "deblur", "kernel": "gaussian:1", "noise": 0.02, "calibration": "natural"})
    (note,) = (note for note in job.notes if note.startswith("calibration:"))
    assert "boundary reflect (here valid)" in note
    assert "the guarantee does not hold" in note
    assert job.spread is not None
    json.dumps(job.spread.record)
