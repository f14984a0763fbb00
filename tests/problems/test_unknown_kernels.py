"""Problems without their instrument: image and kernel are estimated together, and both are written."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from blind_prior import CODE, AnySize, blurred
from PIL import Image

import invdiff as library
from invdiff.blind import DiscFamily, FreeFamily, GaussianFamily, LineFamily
from invdiff.io.images import read_image, write_image
from invdiff.operators import SubsampledConvolution
from invdiff.operators.blur.kernels import defocus_kernel, gaussian_kernel, motion_kernel
from invdiff.problems import Deblur, Defocus, MotionDeblur, OptionError, SuperResolution
from invdiff.restoration import read

NOISE = 0.01
FEW = {"noise": NOISE, "samples": 2, "steps": 3, "rule": "matched"}
WORDS = ("--prior", "mine.py:prior", "--samples", 2, "--steps", 3)
DISC = 2.5
FILES = [
    "best.png",
    "comparison.png",
    "kernel.npy",
    "kernel.png",
    "mean.png",
    "run.json",
    "sample-1.png",
    "sample-2.png",
    "std.png",
]


@pytest.fixture(scope="module")
def defocused():
    return library.restore(blurred(defocus_kernel(DISC)).numpy(), problem="defocus", prior=AnySize(), **FEW)


class TestFamilies:
    @pytest.mark.parametrize(
        ("problem", "family", "name"),
        [
            (Deblur(), FreeFamily, None),
            (Deblur("free"), FreeFamily, None),
            (Deblur("gaussian"), GaussianFamily, "gaussian"),
            (Deblur("disc"), DiscFamily, "disc"),
            (Deblur("line"), LineFamily, "line"),
            (Deblur("motion"), LineFamily, "line"),
            (Defocus(), DiscFamily, "disc"),
            (MotionDeblur(), LineFamily, "line"),
            (SuperResolution(2, kernel="unknown"), GaussianFamily, "gaussian"),
        ],
    )
    def test_of_each_problem(self, problem, family, name):
        found = problem.kernels((200, 100))
        assert isinstance(found, family)
        assert found.size <= 100 * (2 if isinstance(problem, SuperResolution) else 1) / 2

    @pytest.mark.parametrize(
        "problem",
        [Deblur(np.ones((3, 3))), Defocus(2.0), MotionDeblur(5, 30.0), SuperResolution(2), SuperResolution(2, kernel="area")],
    )
    def test_of_known_kernels_is_none(self, problem):
        assert problem.kernels((200, 100)) is None

    @pytest.mark.parametrize(("side", "size"), [(400, 31), (62, 31), (60, 29), (32, 15)])
    def test_free_kernels_are_at_most_half_as_wide_as_the_picture(self, side, size):
        family = Deblur().kernels((side, 500))
        assert family is not None
        assert family.size == size

    @pytest.mark.parametrize("problem", [Deblur(boundary="valid"), Defocus(boundary="valid"), MotionDeblur(boundary="valid")])
    def test_blurs_under_a_kernel(self, problem):
        known = problem.with_kernel(torch.ones(3, 5) / 15)
        assert known.kernels((200, 100)) is None
        assert problem.kernels((200, 100)) is not None
        assert known.operator(known.image_shape((3, 20, 30))).out_shape == (3, 20, 30)

    def test_super_resolution_under_a_kernel_keeps_every_other_pixel(self):
        op = SuperResolution(2, kernel="unknown").with_kernel(gaussian_kernel(1.0)).operator((3, 16, 12))
        assert isinstance(op, SubsampledConvolution)
        assert op.out_shape == (3, 8, 6)


class TestPython:
    def test_the_radius_of_a_disc_is_found(self, defocused):
        found = defocused.record["instrument"]["parameters"]["radius"]
        low, high = found["interval"]
        assert low < found["estimate"] < high
        assert found["estimate"] == pytest.approx(DISC, abs=0.2)
        assert found["unit"] == "px"

    def test_samples_have_the_size_of_input_and_explain_it(self, defocused):
        assert defocused.samples.shape == (2, 3, 48, 48)
        ratio = np.mean(defocused.record["residual"]) / defocused.record["residual_expected"]
        assert 0.5 < ratio < 2
        assert not defocused.notes

    def test_the_kernel_is_near_the_true_one(self, defocused):
        assert defocused.kernel.sum() == pytest.approx(1, abs=1e-5)
        true = defocus_kernel(DISC)
        margin = (len(defocused.kernel) - len(true)) // 2
        true = torch.nn.functional.pad(true, (margin,) * 4)
        assert (defocused.kernel.double() - true).norm() < 0.2 * true.norm()

    def test_a_known_kernel_has_no_estimate(self):
        y = blurred(gaussian_kernel(1.0)).numpy()
        result = library.restore(y, problem="deblur", kernel="gaussian:1", prior=AnySize(), **FEW)
        assert result.kernel is None
        assert "instrument" not in result.record

    def test_gray_pictures(self):
        y = blurred(gaussian_kernel(1.0))[0].numpy()
        result = library.restore(y, problem="deblur", kernel="gaussian", prior=AnySize(), **FEW)
        assert result.samples.shape == (2, 1, 48, 48)

    def test_an_unknown_width_of_the_downsampling(self):
        result = library.restore(
            blurred(gaussian_kernel(1.0), size=32).numpy(),
            problem="sr",
            factor=2,
            downsampling="unknown",
            prior=AnySize(),
            **FEW,
        )
        assert result.samples.shape == (2, 3, 64, 64)
        assert set(result.record["instrument"]["parameters"]) == {"sigma"}

    def test_intervals_of_the_pictures(self, tmp_path):
        y = blurred(gaussian_kernel(1.0)).numpy()
        result = library.restore(y, problem="deblur", kernel="gaussian", prior=AnySize(), intervals=80, **FEW)
        result.save(tmp_path / "out")
        assert {"low.png", "high.png", "kernel.npy"} <= {path.name for path in (tmp_path / "out").iterdir()}


class TestNoise:
    def test_none_is_estimated_with_a_note(self):
        y = blurred(gaussian_kernel(2.0), size=64, noise=0.02).numpy()
        for noise in (0, "auto"):
            measured = read(y, "deblur", noise=noise, boundary="valid")
            assert measured.observed.sigma_y == pytest.approx(0.04, rel=0.2)
            assert any(note.startswith("noise 0: an unknown blur needs") for note in measured.notes) == (noise == 0)
            assert any(note.startswith("noise: estimated 0.0") for note in measured.notes)

    def test_other_noise_is_refused(self):
        with pytest.raises(OptionError, match=r"takes Gaussian noise, of a known level such as --noise 0\.01 or auto"):
            read(blurred(gaussian_kernel(1.0)).numpy(), "deblur", noise="poisson:40")


class TestCommand:
    @pytest.fixture
    def solve(self, invdiff, tmp_path):
        (tmp_path / "mine.py").write_text(CODE)

        def run(*words, code=0):
            return invdiff("solve", *WORDS, *words, code=code)

        return run

    @pytest.mark.parametrize(
        ("words", "kernel", "line"),
        [
            (("defocus",), defocus_kernel(2.5), "blur     radius 2."),
            (("deblur", "--kernel", "gaussian"), gaussian_kernel(1.5), "blur     sigma 1."),
            (("motion-deblur",), motion_kernel(7, 40.0), "blur     length "),
            (("deblur", "--kernel-size", 9), defocus_kernel(1.5), "blur     a kernel of "),
        ],
    )
    def test_every_file_is_written_and_the_kernel_can_be_read_back(self, solve, tmp_path, words, kernel, line):
        write_image("in.png", blurred(kernel).numpy() * 2 - 1)
        printed = solve("in.png", "--problem", *words, "--noise", NOISE, "-o", "out")
        assert line in printed.stdout
        out = tmp_path / "out"
        assert sorted(path.name for path in out.iterdir()) == FILES
        record = json.loads((out / "run.json").read_text())
        assert set(record["outputs"]) == set(FILES) - {"run.json"}
        saved = np.load(out / "kernel.npy")
        assert saved.sum() == pytest.approx(1, abs=1e-5)
        assert [*saved.shape] == record["instrument"]["size"]
        with Image.open(out / "kernel.png") as shown:
            assert shown.size[1] % saved.shape[0] == 0
            assert np.asarray(shown).max() == 255
        solve("in.png", "--problem", "deblur", "--kernel", "out/kernel.npy", "--noise", NOISE, "-o", "again")
        assert read_image(tmp_path / "again" / "mean.png").pixels.shape == (3, 48, 48)
        assert not (tmp_path / "again" / "kernel.npy").exists()

    def test_intervals_are_printed(self, solve):
        write_image("in.png", blurred(defocus_kernel(DISC)).numpy() * 2 - 1)
        printed = solve("in.png", "--problem", "defocus", "--noise", NOISE, "-o", "out").stdout
        (line,) = (line for line in printed.splitlines() if line.startswith("blur"))
        assert " px, 90 % interval " in line

    def test_notes_of_the_kernel_are_printed_once(self, solve, tmp_path):
        write_image("in.png", blurred(torch.ones(1, 1).double()).numpy() * 2 - 1)  # not blurred at all
        printed = solve("in.png", "--problem", "deblur", "--kernel", "disc", "--noise", NOISE, "-o", "out")
        notes = json.loads((tmp_path / "out" / "run.json").read_text())["notes"]
        assert notes
        assert all(printed.stderr.count(note) == 1 for note in notes)

    def test_the_program_says_which_files_are_in_the_way(self, solve, tmp_path):
        write_image("in.png", blurred(gaussian_kernel(1.0)).numpy() * 2 - 1)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "kernel.npy").write_bytes(b"")
        (tmp_path / "out" / "run.json").write_text('{"command": "solve", "outputs": {}}')
        printed = solve("in.png", "--problem", "deblur", "--noise", NOISE, "-o", "out", "--overwrite", code=1)
        assert "kernel.npy" in printed.stderr


@pytest.mark.parametrize(
    ("problem", "options", "message"),
    [
        ("motion-deblur", {"length": 5}, "--length is given without --angle: give both, or none"),
        ("motion-deblur", {"angle": 30}, "--angle is given without --length: give both, or none"),
        ("deblur", {"kernel_size": 8}, "an odd number, got 8. Choose an odd number"),
        ("deblur", {"kernel_size": 25}, "at most half as wide as the picture, 48 x 48. Choose --kernel-size 23 or less"),
        ("deblur", {"kernel": "gaussian", "kernel_size": 9}, "Leave it out, or leave --kernel out"),
        ("deblur", {"kernel": "gaussian:1", "kernel_size": 9}, "Leave it out, or leave --kernel out"),
        ("deblur", {"boundary": "zero"}, "boundary must be one of"),
        ("deblur", {"chunk": 2}, "--chunk cannot be used where the kernel is estimated"),
        ("deblur", {"calibration": "natural"}, "--calibration cannot be used where the kernel is estimated"),
        ("deblur", {"simulate": True}, "needs --kernel, .* to simulate a measurement"),
        ("deblur", {"simulate": True, "kernel": "disc"}, "needs --kernel, .* to simulate a measurement"),
        ("defocus", {"simulate": True}, "needs --radius, .* to simulate a measurement"),
        ("motion-deblur", {"simulate": True}, "needs --length in pixels and --angle in degrees to simulate"),
        ("sr", {"simulate": True, "factor": 2, "downsampling": "unknown"}, "to simulate a measurement"),
    ],
)
def test_what_does_not_fit_is_refused(problem, options, message):
    y = blurred(gaussian_kernel(1.0)).numpy()
    with pytest.raises(ValueError, match=message):
        library.restore(y, problem=problem, prior=AnySize(), **{**FEW, **options})


def test_small_pictures_are_refused():
    y = blurred(gaussian_kernel(1.0), size=24).numpy()
    with pytest.raises(ValueError, match="24 x 24 pixels is too small to estimate its blur from: expected 32 or more"):
        library.restore(y, problem="deblur", prior=AnySize(), **FEW)


def test_pictures_without_texture():
    y = np.full((3, 48, 48), 0.5, dtype=np.float32)
    with pytest.raises(ValueError, match="noise"):
        library.restore(y, problem="deblur", prior=AnySize(), samples=2, steps=3)
    y = y + 0.01 * np.random.default_rng(0).standard_normal(y.shape).astype(np.float32)
    flat = library.restore(y, problem="defocus", prior=AnySize(), **FEW)
    assert any("does not tell" in note or "no kernel explains" in note or "end of its range" in note for note in flat.notes)
