"""``invdiff calibrate`` on folders of images that are draws of a known prior, and on some that are not."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from invdiff.cli.calibrate import HELP, SHARED, calibrate
from invdiff.cli.crops import cut_crops
from invdiff.cli.solve import solve
from invdiff.diagnostics import calibrate as calibrate_sampler
from invdiff.io.images import write_image
from invdiff.priors import Gaussian

pytestmark = pytest.mark.slow

SMALL = ("--size", 12, "--samples", 2, "--steps", 2, "--precision", "float32")
NOISY = ("--problem", "sr", "--factor", 2, "--noise", 0.05)


def stationary() -> Gaussian:
    rows, columns = torch.fft.fftfreq(8, dtype=torch.float64), torch.fft.rfftfreq(8, dtype=torch.float64)
    spectrum = 0.01 / (0.02 + rows[:, None] ** 2 + columns**2)
    return Gaussian.stationary(torch.full((1, 8, 8), 0.1, dtype=torch.float64), spectrum.expand(1, 8, 5))


@pytest.fixture
def photographs(tmp_path):
    """Four noisy pictures of 16 x 20 pixels, one of them grey."""
    rng = np.random.default_rng(0)
    for k in range(3):
        Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(tmp_path / f"{k}.png")
    Image.fromarray(rng.integers(0, 256, (16, 20), dtype=np.uint8)).save(tmp_path / "grey.png")
    return tmp_path


@pytest.fixture
def draws(tmp_path, monkeypatch):
    """Sixty draws of a Gaussian prior as files, and that prior under the name of any checkpoint."""
    (tmp_path / "draws").mkdir()
    for k, x in enumerate(stationary().sample(60, seed=7)):
        write_image(tmp_path / "draws" / f"{k:02d}.npy", x.numpy())
    monkeypatch.setattr("invdiff.priors.load_prior", lambda name, **_: stationary(), raising=False)
    return tmp_path / "draws"


class TestVerdict:
    def test_the_default_passes_where_the_images_are_draws_of_the_prior(self, invdiff, draws, tmp_path):
        result = invdiff("calibrate", draws, *NOISY, "--size", 8, "--samples", 7, "--rule", "heun", "--steps", 30, "-o", "out")
        assert "- consistent with a calibrated sampler: the smallest of 10 p-values is" in result.stdout
        assert "60 cases reveal" in result.stdout
        lines = [line for line in result.stdout.splitlines() if "%" in line or "rank of" in line]
        assert len({line.rindex("0.50") for line in lines if line.startswith("rank of")}) == 1
        record = json.loads((tmp_path / "out" / "calibration.json").read_text())
        assert record["passed"]
        assert (record["cases"], record["num_samples"]) == (60, 7)
        assert len(record["ranks"]["misfit"]) == 60
        assert record["verdict"][0] in result.stdout
        assert result.stdout.splitlines()[-1] == "results: out"
        with Image.open(tmp_path / "out" / "calibration.png") as picture:
            assert picture.width > 800

    def test_dps_is_rejected(self, invdiff, draws):
        few = ("--size", 8, "--samples", 7, "--method", "dps", "--steps", 40, "--option", "zeta=0.3")
        result = invdiff("calibrate", draws, *NOISY, *few, "--json")
        record = json.loads(result.stdout)
        assert not record["passed"]
        assert record["p_values"]["rank of the misfit"] < record["threshold"]
        assert "consistent" not in record["verdict"][0]

    def test_the_noise_is_on_the_scale_of_files(self, invdiff, draws, monkeypatch):
        seen = []

        def record(sampler, clean, **settings):
            seen.append(sampler.op.sigma_y)
            return calibrate_sampler(sampler, clean, **settings)

        monkeypatch.setattr("invdiff.diagnostics.calibrate", record)
        invdiff("calibrate", draws, *NOISY, *SMALL, "--size", 8)
        assert seen == [pytest.approx(0.1)]


class TestCrops:
    def test_one_of_each_image(self, photographs):
        crops, sources, notes = cut_crops(photographs, channels=3, size=12, cases=None, seed=0)
        assert crops.shape == (4, 3, 12, 12)
        assert notes == []
        for crop, source in zip(crops, sources, strict=True):
            with Image.open(photographs / source["image"]) as picture:
                pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 127.5 - 1
            cut = pixels[:, source["top"] : source["top"] + 12, source["left"] : source["left"] + 12]
            assert_close(crop, cut, atol=1e-6, rtol=0)
        again, _, _ = cut_crops(photographs, channels=3, size=12, cases=None, seed=0)
        assert torch.equal(again, crops)
        assert not torch.equal(cut_crops(photographs, channels=3, size=12, cases=None, seed=1)[0], crops)

    def test_several_of_each_are_said_to_be_correlated(self, photographs):
        crops, sources, notes = cut_crops(photographs, channels=3, size=12, cases=10, seed=0)
        assert len(crops) == 10
        assert [source["image"] for source in sources[:5]] == ["0.png", "1.png", "2.png", "grey.png", "0.png"]
        assert sources[0] != sources[4]
        assert notes[0].startswith("10 crops of 4 images: crops of one image resemble each other")
        assert torch.equal(cut_crops(photographs, channels=3, size=12, cases=3, seed=0)[0], crops[:3])

    def test_what_does_not_fit_is_named(self, photographs):
        (photographs / "bad.png").write_bytes(b"no image")
        write_image(photographs / "small.png", np.zeros((3, 8, 30)))
        write_image(photographs / "two.tif", np.zeros((2, 20, 20)))
        crops, _, notes = cut_crops(photographs, channels=3, size=12, cases=None, seed=0)
        assert len(crops) == 4
        assert [note.split(": ")[0] for note in notes] == ["left out"] * 3
        assert "30 x 8 pixels, smaller than the crops of 12" in notes[1]
        assert "has 2 channels" in notes[2]

    def test_a_size_that_fits_small_images_is_proposed(self, tmp_path):
        for k, side in enumerate((5, 20, 30)):
            write_image(tmp_path / f"{k}.png", np.zeros((3, side, 40)))
        message = "0 usable images.* 3 smaller than the crops: give a smaller --size, such as 20. left out"
        with pytest.raises(ValueError, match=message):
            cut_crops(tmp_path, channels=3, size=64, cases=None, seed=0)

    def test_one_image_takes_cases(self, tmp_path):
        write_image(tmp_path / "x.png", np.zeros((3, 20, 20)))
        with pytest.raises(ValueError, match="1 usable images, expected two or more, or one and --cases"):
            cut_crops(tmp_path, channels=3, size=12, cases=None, seed=0)
        assert len(cut_crops(tmp_path, channels=3, size=12, cases=2, seed=0)[0]) == 2


class TestCommand:
    @pytest.mark.parametrize(
        "problem",
        [
            NOISY,
            ("--problem", "deblur", "--kernel", "gaussian:1", "--noise", 0.1),
            ("--problem", "outpaint", "--margin", 2, "--noise", 0.1),
            ("--problem", "colorize", "--noise", 0.1),
            ("--problem", "declip", "--clip-high", 0.7, "--noise", 0.1),
            ("--problem", "mri", "--acceleration", 2, "--center-fraction", 0.25, "--noise", 0.1),
            ("--problem", "ct", "--angles", 5, "--noise", 0.1),
        ],
    )
    def test_networks_and_problems(self, invdiff, tiny_prior, photographs, problem):
        result = invdiff("calibrate", photographs, *problem, *SMALL, "--prior", tiny_prior)
        assert "rank of the log posterior (estimated)" in result.stdout
        assert (photographs / "invdiff-out" / f"calibration-{problem[1]}" / "calibration.json").exists()

    def test_masks_are_of_the_size_of_the_crops(self, invdiff, tiny_prior, photographs):
        (photographs / "masks").mkdir()
        for side in (12, 16):
            mask = np.zeros((1, side, side))
            mask[:, 3:6] = 1
            write_image(photographs / "masks" / f"{side}.png", 2 * mask - 1)
        inpaint = ("calibrate", photographs, "--problem", "inpaint", "--noise", 0.05, *SMALL, "--prior", tiny_prior)
        invdiff(*inpaint, "--mask", photographs / "masks" / "12.png")
        result = invdiff(*inpaint, "--mask", photographs / "masks" / "16.png", code=1)
        assert "the mask is 16 x 16 pixels and the image 12 x 12" in result.stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--problem", "sr", "--factor", 2), "--noise must be above 0"),
            (("--problem", "inpaint", "--noise", 0.1), "--problem inpaint needs --mask"),
            (("--problem", "sr", "--noise", 0.1), "--problem sr needs --factor"),
            (("--noise", 0.1), "--problem is missing"),
            (("--problem", "demosaic", "--noise", 0.1), "--problem demosaic needs --pattern"),
            (("--problem", "dequantize", "--levels", 4), "dequantize has no Gaussian noise"),
            (("--problem", "sr", "--factor", 2, "--noise", "laplace:0.1"), "tested against Gaussian noise"),
            (("--problem", "sr", "--factor", 2, "--noise", "auto"), "give the level of the noise to add"),
        ],
    )
    def test_refuses(self, invdiff, photographs, arguments, message):
        result = invdiff("calibrate", photographs, *arguments, code=2)
        assert message in result.stderr
        assert not (photographs / "invdiff-out").exists()

    def test_earlier_results_are_kept(self, invdiff, tiny_prior, photographs):
        command = ("calibrate", photographs, *NOISY, *SMALL, "--prior", tiny_prior, "-o", "out")
        invdiff(*command)
        first = (photographs / "out" / "calibration.json").read_text()
        assert "is not empty" in invdiff(*command, code=1).stderr
        assert (photographs / "out" / "calibration.json").read_text() == first
        invdiff(*command, "--seed", 1, "--overwrite")
        assert (photographs / "out" / "calibration.json").read_text() != first

    def test_options_are_those_of_solve(self):
        names = [parameter.name for parameter in calibrate.params]
        assert set(SHARED) <= set(names)
        assert set(HELP) <= set(SHARED)
        assert len(names) == len(set(names))
        own = {parameter.name: parameter for parameter in solve.params}
        for parameter in calibrate.params:
            if parameter.name in SHARED and isinstance(parameter, click.Option):
                assert parameter.opts == own[parameter.name].opts
                assert parameter.default == own[parameter.name].default

    def test_help_is_light(self):
        script = (
            "import sys; sys.argv = ['invdiff', 'calibrate', '--help']\n"
            "from invdiff.cli import main\n"
            "main(standalone_mode=False)\n"
            "print(*sorted({'torch', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
        )
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert "Examples:" in run.stdout
        assert run.stderr.strip() == ""
