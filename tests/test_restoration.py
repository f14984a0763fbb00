"""``invdiff.restore``: in Python what ``invdiff solve`` is at the command line, bit for bit."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import invdiff
from invdiff import PosteriorSampler, load_prior
from invdiff.cli.solve import solve as command
from invdiff.io.images import read_arrays, read_image, write_image
from invdiff.io.source import Source
from invdiff.methods import METHODS
from invdiff.methods.guidance import PiGDM
from invdiff.operators import GaussianNoise, Identity, PoissonNoise
from invdiff.problems import PROBLEMS, Denoise, OptionError
from invdiff.restoration import read
from invdiff.restoration.job import SETTINGS
from invdiff.restoration.noise import noise_choice

pytestmark = pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")  # two steps of an untrained prior
HEIGHT, WIDTH = 16, 24
CASES = {
    "inpaint": {"mask": "mask.png"},
    "outpaint": {"margin": 2, "noise": 0.05},
    "denoise": {"noise": "poisson:40"},
    "deblur": {"kernel": "gaussian:0.7", "noise": 0.02, "boundary": "zero"},
    "defocus": {"radius": 1.5, "noise": 0.02},
    "motion-deblur": {"length": 3, "angle": 45, "noise": 0.02},
    "sr": {"factor": 2, "noise": 0.01, "simulate": True},
    "colorize": {"simulate": True},
    "demosaic": {"pattern": "rggb", "simulate": True},
    "declip": {"clip_high": 0.7},
    "dequantize": {"levels": 5},
    "dejpeg": {"jpeg_quality": 30, "simulate": True},
    "compressed-sensing": {"ratio": 0.5, "pattern_seed": 3, "noise": 0.02, "simulate": True},
    "phase-retrieval": {"codes": 2, "noise": 0.02, "simulate": True},
    "mri": {"acceleration": 2, "coils": 2, "noise": 0.02, "simulate": True},
    "ct": {"angles": 5, "noise": 0.1, "simulate": True},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH))
    write_image(tmp_path / "in.png", values / 127.5 - 1)
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[5:9, 8:15] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def few(tiny_prior):
    """The settings that ``solve`` of these tests runs with."""
    return {"prior": str(tiny_prior), "precision": "float32", "steps": 2, "samples": 2}


def words_of(settings):
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        yield from (flag,) if value is True else (flag, value)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}


class TestAsTheCommand:
    @pytest.mark.slow
    @pytest.mark.parametrize("problem", [name for name in PROBLEMS if name != "operator"])
    def test_every_problem(self, solve, folder, few, problem):
        settings = CASES[problem]
        said = solve("in.png", "--problem", problem, *words_of(settings), "--seed", 3, "-o", "a", "--npz").stderr
        result = invdiff.restore("in.png", problem=problem, seed=3, **settings, **few)
        assert result.save("b", npz=True) == Path("b")
        assert files(folder / "a") == files(folder / "b")
        ours, theirs = (json.loads((folder / name / "run.json").read_text()) for name in "ba")
        assert ours == theirs
        assert said.splitlines() == list(result.notes)
        pictures = read_arrays(folder / "a" / "posterior.npz", "samples")["samples"]
        np.testing.assert_array_equal(result.pictures.numpy(), pictures)

    def test_settings_of_the_sampler_and_the_spread(self, solve, folder, few):
        how = {"problem": "sr", "factor": 2, "method": "dps", "rule": "ddim", "intervals": 80, "chunk": 1, "seed": 1}
        solve("in.png", *words_of(how), "--option", "zeta=0.25", "-o", "a")
        result = invdiff.restore("in.png", option={"zeta": 0.25}, **how, **few)
        result.save("b")
        assert files(folder / "a") == files(folder / "b")
        ours, theirs = (json.loads((folder / name / "run.json").read_text()) for name in "ba")
        assert ours == theirs
        assert ours["arguments"]["intervals"] == "80"

    def test_defaults(self):
        ours = {name: p.default for name, p in inspect.signature(invdiff.restore).parameters.items()}
        theirs = command.make_context("solve", ["--problem", "colorize"]).params
        assert noise_choice(ours["noise"]) == noise_choice(theirs["noise"])
        for name, default in SETTINGS.items():
            if name == "coupling":  # of several slices: restore_volume
                continue
            assert name == "problem" or (ours[name] or None) == (default or None)
            assert name in ("problem", "noise") or (theirs[name] or None) == (default or None)


class TestInputs:
    @pytest.fixture
    def wanted(self, folder, few):
        return invdiff.restore("in.png", problem="inpaint", mask="mask.png", **few)

    @pytest.mark.parametrize(
        "make",
        [
            lambda path: Path(path),
            Image.open,
            lambda path: np.asarray(Image.open(path)).transpose(2, 0, 1),
            lambda path: torch.from_numpy(read_image(path).pixels / 2 + 0.5)[None],
        ],
        ids=["path", "Pillow", "bytes", "tensor"],
    )
    def test_pictures_in_memory(self, wanted, few, make):
        mask = np.asarray(Image.open("mask.png"))
        for given in (mask, mask > 0, torch.from_numpy(mask > 0), "mask.png"):
            result = invdiff.restore(make("in.png"), problem="inpaint", mask=given, **few)
            assert_close(result.pictures, wanted.pictures, rtol=0, atol=1e-6)
        assert result.record["arguments"]["input"] is not None
        json.dumps(result.record["arguments"])

    def test_opacity_and_orientation(self, few, folder):
        image = Image.open("in.png").convert("RGBA")
        image.putalpha(Image.fromarray(255 - np.asarray(Image.open("mask.png"))))
        image.save("clear.png")
        by_file, by_image = (invdiff.restore(given, problem="inpaint", **few) for given in ("clear.png", image))
        assert torch.equal(by_file.pictures, by_image.pictures)
        assert "filling 7.3% of the pixels" in by_image.notes

    def test_arrays_in_memory(self, few):
        sinogram = np.abs(np.random.default_rng(0).normal(5, 1, (6, 16)))
        angles = np.arange(6) * 30.0
        one = invdiff.restore(sinogram, problem="ct", noise=1, **few)
        two = invdiff.restore({"sinogram": sinogram, "angles": angles}, problem="ct", noise=1, **few)
        assert torch.equal(one.pictures, two.pictures)
        assert one.pictures.shape == (2, 1, 16, 16)

    def test_a_kernel_in_memory(self, folder, few):
        kernel = np.array([[0.25, 0.5, 0.25]])
        np.save("kernel.npy", kernel)
        by_file, by_array = (
            invdiff.restore("in.png", problem="deblur", kernel=given, noise=0.05, **few) for given in ("kernel.npy", kernel)
        )
        assert_close(by_file.pictures, by_array.pictures)

    def test_noise_models(self, folder, few):
        one = invdiff.restore("in.png", problem="denoise", noise=0.05, **few)
        two = invdiff.restore("in.png", problem="denoise", noise=GaussianNoise(0.1), **few)
        assert torch.equal(one.pictures, two.pictures)
        three = invdiff.restore("in.png", problem="denoise", noise="poisson:40", **few)
        four = invdiff.restore("in.png", problem="denoise", noise=PoissonNoise(2 / 40, offset=-1.0), **few)
        assert torch.equal(three.pictures, four.pictures)
        assert "Poisson" in four.record["arguments"]["noise"]

    def test_objects(self, folder, few):
        by_name = invdiff.restore("in.png", problem="denoise", noise=0.05, **few)
        objects = {**few, "prior": load_prior(few["prior"], precision="float32")}
        by_object = invdiff.restore("in.png", problem=Denoise, noise=0.05, **objects)
        assert torch.equal(by_name.pictures, by_object.pictures)
        json.dumps(by_object.record["arguments"])


class TestNoteOnExactData:
    """Noise 0 is doubted where a camera or an instrument measured, and nowhere else."""

    @pytest.mark.parametrize(
        ("problem", "options", "doubted"),
        [
            ("sr", {"factor": 2, "noise": 0}, True),
            ("sr", {"factor": 2}, False),
            ("sr", {"factor": 2, "noise": 0.01}, False),
            ("sr", {"factor": 2, "simulate": True}, False),
            ("inpaint", {"mask": "mask.png"}, False),
        ],
    )
    def test_pictures(self, folder, problem, options, doubted):
        notes = read("in.png", problem, **options).notes
        assert any(note.startswith("noise 0: INPUT is taken as exact; an 8-bit file") for note in notes) is doubted

    def test_arrays(self):
        kspace = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(torch.rand(16, 16)), norm="ortho")).numpy()
        assert any("which no instrument is" in note for note in read({"kspace": kspace}, "mri", scale=1.0, noise=0).notes)
        assert not any("noise 0" in note for note in read({"kspace": kspace}, "mri", scale=1.0, noise=0.01).notes)


class TestResult:
    def test_mean_and_spread(self, folder, few):
        result = invdiff.restore("in.png", problem="sr", factor=2, **few)
        assert result.pictures.shape == (2, 3, 2 * HEIGHT, 2 * WIDTH)
        assert_close(result.mean, result.pictures.mean(0))
        assert_close(result.std, result.pictures.std(0))
        assert result.posterior.samples.shape == (2, 1, 3, 2 * HEIGHT, 2 * WIDTH)
        assert result.record["method"] == result.posterior.method
        single = invdiff.restore("in.png", problem="sr", factor=2, **{**few, "samples": 1})
        assert single.std.isnan().all()

    def test_saved_once(self, folder, few):
        result = invdiff.restore("in.png", problem="sr", factor=2, **few)
        assert result.save() == Path("invdiff-out/in-sr")
        with pytest.raises(ValueError, match="is not empty"):
            result.save("invdiff-out/in-sr")
        result.save("invdiff-out/in-sr", overwrite=True)

    def test_step_by_step(self, folder, few, tiny_prior):
        measured = read("in.png", "inpaint", mask="mask.png")
        score = load_prior(tiny_prior, precision="float32")
        sampler = PosteriorSampler(score, measured.op, steps=2, ratio_max=10.0)
        pictures = measured.finish(sampler.run(measured.y, num_samples=2).samples[:, 0])
        known = read_image("mask.png").pixels[0] < 0
        given = read_image("in.png").pixels.astype(np.float32)
        np.testing.assert_array_equal(pictures[0].numpy()[:, known], given[:, known])

    def test_says_what_it_is_in_a_line(self, folder, few):
        result = invdiff.restore("in.png", problem="denoise", noise=0.05, **few)
        assert repr(result).startswith("Restoration(2 pictures of 3 x 16 x 24, in-denoise, Posterior(2 samples")
        assert "\n" not in repr(result)
        assert "data:image/png;base64" in result._repr_html_()

    def test_a_method_may_be_an_object(self, folder, few):
        by_name = invdiff.restore("in.png", problem="denoise", noise=0.05, method="pigdm", **few)
        for method in (METHODS["pigdm"], PiGDM):
            assert invdiff.restore("in.png", problem="denoise", noise=0.05, method=method, **few).posterior.method in (
                "pigdm",
                "PiGDM",
            )
        same = invdiff.restore("in.png", problem="denoise", noise=0.05, method=METHODS["pigdm"], **few)
        assert_close(same.pictures, by_name.pictures)


class Deaf(Denoise):
    """A problem that does not pass the noise on."""

    def operator(self, shape, *, noise=None):
        return Identity(shape)


class Forgetful(Denoise):
    def operator(self, shape, *, noise=None):  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        Identity(shape)


class TestErrors:
    @pytest.mark.parametrize(
        ("problem", "error", "message"),
        [
            (Deaf, ValueError, "must give the operator the noise"),
            (Forgetful, TypeError, "must return an Operator, got NoneType"),
        ],
    )
    def test_an_operator_without_its_noise(self, folder, few, problem, error, message):
        with pytest.raises(error, match=message):
            invdiff.restore("in.png", problem=problem, noise=0.05, **few)

    def test_an_array_on_another_scale(self, folder, few):
        image = np.linspace(-1, 1, 3 * HEIGHT * WIDTH).reshape(3, HEIGHT, WIDTH)
        with pytest.raises(ValueError, match=r"which noise does not explain.*--black -1 --white 1"):
            invdiff.restore(image, problem="denoise", noise=0.05, **few)

    @pytest.mark.parametrize("mode", ["CMYK", "F"])
    def test_modes_that_png_does_not_know(self, folder, mode):
        picture = Source(
            Image.open("in.png").convert("L").convert(mode) if mode == "CMYK" else Image.new("F", (4, 6), 0.5)
        ).picture()
        assert np.isfinite(picture.pixels).all()

    def test_method_of_another_kind(self, folder, few):
        with pytest.raises(OptionError, match="expected a Method"):
            invdiff.restore("in.png", problem="denoise", noise=0.05, method=3, **few)  # pyright: ignore[reportArgumentType]

    @pytest.mark.parametrize(
        ("message", "settings"),
        [
            ("unknown option 'maks', expected one of mask, mask_keep, .* Did you mean 'mask'?", {"maks": "mask.png"}),
            ("Did you mean 'samples'?", {"mask": "mask.png", "sample": 2}),
            ("unknown option 'factor'", {"mask": "mask.png", "factor": 2}),
            ("Unknown problem 'inpain', .* Did you mean 'inpaint'?", {"problem": "inpain"}),
            ("expected a name, a place such as mine.py:MyProblem, or a Problem class", {"problem": Denoise()}),
            ("--problem sr needs --factor", {"problem": "sr"}),
            ("expected an integer", {"problem": "outpaint", "margin": 1.5}),
            ("expected a number above 1", {"problem": "sr", "factor": 1}),
            ("expected a number above 0", {"problem": "defocus", "radius": 0}),
            ("expected a finite number", {"problem": "defocus", "radius": float("inf")}),
            ("'RGB' is not one of 'RGGB'", {"problem": "demosaic", "pattern": "RGB"}),
            ("expected a standard deviation such as 0.02", {"mask": "mask.png", "noise": "much"}),
            ("its only noise is rounding", {"problem": "dequantize", "levels": 3, "noise": 0.1}),
            ("exclude each other", {"problem": "phase-retrieval", "codes": 1, "oversampling": 2, "simulate": True}),
            ("is for simulations only", {"problem": "ct", "angles": 4}),
            ("leave out --steps", {"mask": "mask.png", "quality": "best"}),
            ("expected one of 50%", {"mask": "mask.png", "intervals": 33}),
        ],
    )
    def test_what_cannot_be(self, folder, few, message, settings):
        with pytest.raises(OptionError, match=message):
            invdiff.restore("in.png", **{"problem": "inpaint", **settings}, **few)
