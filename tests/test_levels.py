"""Black and white in the units of a file, and pictures whose values are on another range."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch.testing import assert_close

import invdiff
from invdiff.cli.solve import solve as command
from invdiff.io.images import read_image
from invdiff.operators import Identity
from invdiff.problems import OptionError
from invdiff.restoration import read

SIDES = (16, 24)
UNIT = np.random.default_rng(0).random((3, *SIDES))
BLACK, WHITE = 256, 4095
RAW = np.rint(BLACK + (WHITE - BLACK) * UNIT).astype(np.uint16)
pytestmark = pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")  # two steps of an untrained prior


@pytest.fixture
def few(tmp_path, monkeypatch, tiny_prior):
    monkeypatch.chdir(tmp_path)
    return {"prior": str(tiny_prior), "precision": "float32", "steps": 2, "samples": 2}


def save(name, values):
    if name.endswith(".npy"):
        np.save(name, values)
    elif name.endswith(".tif"):
        tifffile.imwrite(name, values.transpose(1, 2, 0), photometric="rgb")
    else:
        Image.fromarray(values[0] if values.dtype == np.uint16 else values.transpose(1, 2, 0)).save(name)
    return name


FILES = {
    "12 bits in an array": ("in.npy", RAW),
    "12 bits in a TIFF": ("in.tif", RAW),
    "12 bits in a gray PNG": ("in.png", RAW[:1]),
    "floats in an array": ("in.npy", RAW.astype(np.float32)),
    "floats in a TIFF": ("in.tif", RAW.astype(np.float32)),
    "signed integers": ("in.npy", RAW.astype(np.int32)),
    "signed integers in a TIFF": ("in.tif", RAW.astype(np.int16)),
}


@pytest.mark.parametrize("name", FILES)
def test_pixels_span_black_to_white(few, name):
    path, values = FILES[name]
    measured = read(save(path, values), "sr", noise=0.05, factor=2, black=BLACK, white=WHITE)
    assert_close((measured.measurement[0] + 1) / 2, torch.from_numpy(UNIT[: len(values)]).float(), rtol=0, atol=2e-4)


@pytest.mark.parametrize("scale", [255.0, 1000.0])
def test_arrays_in_memory(few, scale):
    measured = read(scale * UNIT, "sr", noise=0.05, factor=2, white=scale)
    assert_close((measured.measurement[0] + 1) / 2, torch.from_numpy(UNIT).float(), rtol=0, atol=1e-6)


def test_pixels_from_minus_1_to_1(few):
    np.save("in.npy", 2 * UNIT - 1)
    measured = read("in.npy", "sr", noise=0.05, factor=2, black=-1, white=1)
    assert_close((measured.measurement[0] + 1) / 2, torch.from_numpy(UNIT).float(), rtol=0, atol=1e-6)


def test_8_bits(few):
    save("in.png", np.rint(200 * UNIT).astype(np.uint8))
    measured = read("in.png", "sr", noise=0.05, factor=2, white=200)
    assert_close((measured.measurement[0] + 1) / 2, torch.from_numpy(UNIT).float(), rtol=0, atol=1 / 200)


def test_results_are_in_the_levels_of_the_file(few):
    save("in.tif", RAW)
    result = invdiff.restore("in.tif", problem="denoise", noise=0.05, black=BLACK, white=WHITE, **few)
    result.save("out", npz=True)
    record = json.loads(Path("out/run.json").read_text(encoding="utf-8"))
    assert (record["arguments"]["black"], record["arguments"]["white"]) == (BLACK, WHITE)
    levels = (read_image("out/mean.png").pixels + 1) / 2 * 65535
    assert_close(levels, (BLACK + (WHITE - BLACK) * result.mean.double().numpy()).clip(0), rtol=0, atol=0.6)
    again = read("out/mean.png", "sr", noise=0.05, factor=2, black=BLACK, white=WHITE)
    assert_close((again.measurement[0] + 1) / 2, result.mean.clamp(min=-BLACK / (WHITE - BLACK)), rtol=0, atol=2e-4)
    with np.load("out/posterior.npz") as arrays:
        assert_close(arrays["samples"].mean(0), result.mean.numpy(), rtol=0, atol=1e-6)


def test_a_simulated_measurement_is_written_in_the_same_levels(few):
    save("in.tif", RAW)
    levels = {"black": BLACK, "white": WHITE, "noise": 0.02, "pattern": "RGGB"}
    result = invdiff.restore("in.tif", problem="demosaic", simulate=True, **levels, **few)
    result.save("out")
    again = read("out/measurement.png", "demosaic", **levels)
    assert_close(again.measurement.clamp(-1, 1), result.measured.measurement.clamp(-1, 1), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"white": 0}, "--white: expected a number above the level of black, 0"),
        ({"black": 5, "white": 5}, "--white: expected a number above the level of black, 5"),
        ({"black": float("nan")}, "expected finite numbers"),
        ({"black": 70000}, "--black: expected a number below the level of white, 65535"),
    ],
)
def test_wrong_levels(few, options, message):
    save("in.tif", RAW)
    with pytest.raises(OptionError, match=message):
        read("in.tif", "sr", noise=0.05, factor=2, **options)


@pytest.mark.parametrize("name", ["in.tif", "in.npy", "float.npy", "in.png"])
@pytest.mark.parametrize("levels", [{"white": 1e-300}, {"white": 1e-37}, {"black": 300 - 1e-13, "white": 300}])
def test_levels_beyond_what_floats_hold(few, name, levels):
    values = RAW[0] if name == "in.png" else UNIT if name == "float.npy" else RAW
    Image.fromarray(values).save(name) if name == "in.png" else save(name, values)
    with pytest.raises(OptionError, match=r"--white: .* is too small a range for values up to"):
        read(name, "sr", noise=0.05, factor=2, **levels)


def test_levels_are_for_pictures(few):
    np.savez("in.npz", kspace=np.zeros((8, 8), complex))
    with pytest.raises(OptionError, match="--black and --white are for pictures"):
        read("in.npz", "mri", noise=0.05, white=3)


class TestOtherRanges:
    @pytest.mark.parametrize("problem", ["denoise", "sr", "inpaint"])
    @pytest.mark.parametrize("source", ["file", "array", "tensor"])
    def test_pixels_from_minus_1_to_1_are_refused_by_name(self, few, problem, source):
        values = 2 * UNIT - 1
        np.save("in.npy", values)
        given = {"file": "in.npy", "array": values, "tensor": torch.from_numpy(values)}[source]
        mask = np.zeros(SIDES)
        mask[3:6, 3:6] = 1
        options = {"denoise": {}, "sr": {"factor": 2}, "inpaint": {"mask": mask}}[problem]
        with pytest.raises(ValueError, match=r"% of the values are below -0\.\d+, .*--black -1 --white 1"):
            read(given, problem, noise=0.02, **options)

    @pytest.mark.parametrize("noise", [0.08, 0.1])
    def test_pixels_from_minus_1_to_1_are_refused_at_high_noise(self, few, noise):
        with pytest.raises(ValueError, match="--black -1 --white 1"):
            read(2 * UNIT**0.4 - 1, "denoise", noise=noise)

    @pytest.mark.parametrize("noise", [0.2, 0.3])
    def test_pixels_from_minus_1_to_1_are_refused_where_noise_hides_their_tail(self, few, noise):
        noisy = 2 * UNIT - 1 + noise * np.random.default_rng(0).standard_normal(UNIT.shape)
        with pytest.raises(ValueError, match="--black -1 --white 1"):
            read(noisy, "denoise", noise=noise)

    def test_bright_pictures_are_found_too(self, few):
        bright = 0.6 + 0.4 * UNIT
        bright[:, :1, :3] = 0.1
        with pytest.raises(ValueError, match="--black -1 --white 1"):
            read(2 * bright - 1, "sr", factor=2, noise=0)

    @pytest.mark.parametrize("noise", [0.05, 0.2, 0.5, "laplace:0.1", "laplace:0.4", "student:0.05,3", "poisson:5,0.1"])
    def test_what_noise_explains_is_not(self, few, noise):
        dark = read(np.full((3, 64, 64), 0.02), "denoise", noise=noise, simulate=True)
        noisy = (dark.measurement[0].numpy() + 1) / 2
        assert noisy.min() < -0.05
        read(noisy, "denoise", noise=noise)

    @pytest.mark.parametrize("values", [255 * UNIT, RAW.astype(np.float64)])
    def test_larger_floats_name_the_option(self, few, values):
        np.save("in.npy", values)
        for source in ("in.npy", values):
            with pytest.raises(ValueError, match=r"values reach [\d.]+; expected the 0..1 scale: .*--white"):
                read(source, "sr", noise=0.05, factor=2)

    @pytest.mark.parametrize(("bits", "path"), [(8, "in.tif"), (10, "in.png"), (12, "in.tif"), (12, "in.npy"), (14, "in.tif")])
    def test_few_bits_in_16_are_recognized(self, few, bits, path):
        values = np.rint((2**bits - 1) * UNIT).astype(np.uint16)
        save(path, values[:1] if path.endswith("png") else values)
        measured = read(path, "sr", noise=0.05, factor=2)
        assert any(f"integers of {bits} bits" in note for note in measured.notes)
        assert measured.levels is not None
        assert (measured.levels.black, measured.levels.white) == (0, 2**bits - 1)

    def test_dark_floats_are_noted(self, few):
        notes = read(UNIT / 16 + 1e-4 / 3, "sr", noise=0.01, factor=2).notes
        assert any("its values reach 0.06" in note for note in notes)

    @pytest.mark.parametrize("scale", [0.3, 1.0])
    def test_other_pictures_are_not(self, few, scale):
        save("in.tif", np.rint(65535 * scale * UNIT).astype(np.uint16))
        assert not any("black" in note for note in read("in.tif", "sr", noise=0.05, factor=2).notes)

    def test_measurements_of_ones_own_operator_have_any_range(self, few):
        measured = read(2 * UNIT - 1, "operator", noise=0.02, operator=lambda shape: 3 * Identity(shape))
        assert float(measured.measurement.min()) < -2

    @pytest.mark.parametrize("share", [0.01, 0.04])
    def test_sharp_edges_may_ring(self, few, share):
        values = UNIT.copy()
        values[share > UNIT] = -0.15
        read(values, "sr", factor=2)


def test_command_line(few, tmp_path):
    from click.testing import CliRunner

    save("in.tif", RAW)
    words = ["in.tif", "--problem", "denoise", "--noise", "0.05", "--black", BLACK, "--white", WHITE, "-o", "out"]
    words += ["--prior", few["prior"], "--steps", 2, "--samples", 2, "--precision", "float32"]
    result = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "run.json").read_text())["arguments"]["white"] == WHITE


@pytest.mark.parametrize("factor", [2, 4])
def test_a_simulated_measurement_keeps_exif_data(few, factor):
    exif = Image.Exif()
    exif[271], exif[282], exif[283], exif[296] = "ACME", 300.0, 300.0, 2
    Image.fromarray(np.rint(255 * UNIT).astype(np.uint8).transpose(1, 2, 0)).save("in.png", exif=exif)
    invdiff.restore("in.png", problem="sr", factor=factor, noise=0.05, simulate=True, **few).save("out")
    with Image.open("out/measurement.png") as measured:
        written = measured.getexif()
    assert (written[271], float(written[282])) == ("ACME", 300 / factor)
