"""``calibrate --save`` and ``solve --calibration``: a spread learned once, and applied to maps and nothing else."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from invdiff.cli.solve import INTERVALS
from invdiff.diagnostics import exact_width
from invdiff.io.images import read_arrays, read_image, write_image
from invdiff.priors import load_prior
from invdiff.problems import PROBLEMS
from invdiff.restoration.calibration_file import BUNDLED, FORMAT, LEVELS

pytestmark = pytest.mark.slow

SMALL = ("--size", 12, "--samples", 2, "--steps", 2, "--precision", "float32")
PLAIN = ("--problem", "sr", "--factor", 2, "--noise", 0.05)


@pytest.fixture
def photographs(tmp_path):
    """Ten noisy pictures of 16 x 20 pixels."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(10):
        Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    write_image(tmp_path / "in.png", rng.integers(0, 256, (3, 6, 8)) / 127.5 - 1)
    mask = np.zeros((12, 12), dtype=np.uint8)
    mask[3:6] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return folder


@pytest.fixture
def learn(invdiff, tiny_prior, photographs):
    """``invdiff calibrate --save c.json`` with the tiny prior; what a test gives comes last, and wins."""

    def invoke(*arguments, code=0):
        return invdiff("calibrate", photographs, *SMALL, "--prior", tiny_prior, "--save", "c.json", *arguments, code=code)

    return invoke


def entries(path):
    return json.loads(path.read_text())["problems"]


def with_entry(path, widths, **changes):
    """Write a file with the widths that are wanted in the entry for ``sr``."""
    contents = json.loads(path.read_text())
    contents["problems"]["sr"] |= {"widths": [{"level": level, "width": width} for level, width in widths.items()]} | changes
    path.write_text(json.dumps(contents))


class TestSave:
    def test_an_entry_says_what_it_is_of(self, learn, tmp_path, tiny_prior):
        said = learn(*PLAIN, "-o", "out").stdout
        entry = entries(tmp_path / "c.json")["sr"]
        assert (entry["images"], entry["size"], entry["values"]) == (10, [12, 12], 10 * 3 * 12 * 12)
        assert entry["prior"]["sha256"] == load_prior(tiny_prior).describe()["sha256"]
        settings = {"factor": 2, "noise": 0.05, "samples": 2, "steps": 2, "method": "mmps", "downsampling": "bicubic"}
        assert settings.items() <= entry["settings"].items()
        assert [row["level"] for row in entry["widths"]] == [0.5, 0.6827, 0.8, 0.9]  # 95 % takes 19 images
        widths = [row["width"] for row in entry["widths"]]
        assert widths == sorted(widths)
        assert "over these 10 images and a new one" in entry["guarantee"]
        assert entry["guarantee"] in said
        assert "95% (19 images)" in said
        assert said.splitlines()[-1] == "saved: c.json"
        assert json.loads((tmp_path / "out" / "calibration.json").read_text())["spread"] == entry

    def test_one_entry_a_problem(self, learn, tmp_path):
        learn(*PLAIN)
        first = entries(tmp_path / "c.json")["sr"]
        learn("--problem", "colorize", "--noise", 0.1)
        assert list(entries(tmp_path / "c.json")) == ["colorize", "sr"]
        assert entries(tmp_path / "c.json")["sr"] == first
        before = (tmp_path / "c.json").read_bytes()
        assert "already has a calibration for sr" in learn(*PLAIN, code=1).stderr
        assert (tmp_path / "c.json").read_bytes() == before
        learn(*PLAIN, "--seed", 1, "--overwrite")
        assert entries(tmp_path / "c.json")["sr"] != first
        assert sorted(path.name for path in tmp_path.iterdir() if "c.json" in path.name) == ["c.json"]

    @pytest.mark.parametrize(
        ("problem", "unknown"),
        [
            (("inpaint", "--mask", "mask.png"), 3 * 3 * 12),
            (("outpaint", "--margin", 2), 3 * (12 * 12 - 8 * 8)),
            (("demosaic", "--pattern", "RGGB"), 2 * 12 * 12),
            (("sr", "--factor", 2), 3 * 12 * 12),
            (("colorize",), 3 * 12 * 12),
            (("dequantize", "--levels", 2), 3 * 12 * 12),
            (("dejpeg", "--jpeg-quality", 50, "--size", 16), 3 * 16 * 16),
        ],
        ids=lambda value: value[0] if isinstance(value, tuple) else "",
    )
    def test_of_exact_data_what_is_missing_counts(self, learn, tmp_path, problem, unknown):
        said = learn("--problem", *problem)
        assert entries(tmp_path / "c.json")[problem[0]]["values"] == 10 * unknown
        assert "the misfit is not tested" in said.stderr
        assert "misfit over its expected value" not in said.stdout

    def test_crops_of_one_image_are_one(self, learn, tmp_path):
        learn(*PLAIN, "--cases", 20)
        entry = entries(tmp_path / "c.json")["sr"]
        assert (entry["images"], entry["values"]) == (10, 20 * 3 * 12 * 12)
        assert "--cases as a multiple of 10" in learn(*PLAIN, "--cases", 15, "--overwrite", code=1).stderr

    def test_images_of_which_nothing_is_missing_are_left_out(self, learn, photographs, tmp_path):
        for k in (3, 7):
            write_image(photographs / f"{k}.png", np.full((3, 16, 20), -0.5))
        assert "8 images are too few for this level" in learn("--problem", "declip", "--clip-high", 0.6, code=1).stderr
        for k in (20, 21):
            write_image(photographs / f"{k}.png", np.full((3, 16, 20), 0.5))
        learn("--problem", "declip", "--clip-high", 0.6)
        assert entries(tmp_path / "c.json")["declip"]["images"] == 10

    def test_too_few_images_are_refused_before_the_work(self, learn, photographs, tmp_path):
        for k in (0, 1):
            (photographs / f"{k}.png").unlink()
        said = learn(*PLAIN, "--cases", 80, code=1).stderr
        assert "8 images are too few" in said
        assert "at least 9 are needed" in said
        assert not (tmp_path / "c.json").exists()
        assert not (tmp_path / "invdiff-out").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((*PLAIN, "--samples", 1), "--save needs --samples 2"),
            (("--problem", "sr", "--factor", 2, "--noise", "laplace:0.1"), "must be a standard deviation"),
        ],
    )
    def test_refuses(self, learn, arguments, message):
        assert message in learn(*arguments, code=2).stderr

    @pytest.mark.parametrize(
        "content", ["", "[]", "{}", '{"format": "another"}', f'{{"format": "{FORMAT}", "problems": {{"sr": 1}}}}']
    )
    def test_damaged_files_are_left_alone(self, learn, solve, tmp_path, content):
        (tmp_path / "c.json").write_text(content)
        for said in (
            learn(*PLAIN, "--overwrite", code=1),
            solve("in.png", *PLAIN, "--calibration", "c.json", code=1),
        ):
            assert "c.json is damaged or not a calibration file" in said.stderr
        assert (tmp_path / "c.json").read_text() == content
        assert not (tmp_path / "invdiff-out").exists()


class TestApply:
    @pytest.fixture
    def solved(self, learn, solve, tmp_path):
        """The same run without and with widths of 2 and 5 standard deviations."""
        learn(*PLAIN)
        with_entry(tmp_path / "c.json", {0.6827: 2.0, 0.9: 5.0})
        solve("in.png", *PLAIN, "-o", "plain", "--npz")
        said = solve("in.png", *PLAIN, "-o", "out", "--npz", "--calibration", "c.json")
        return tmp_path, said

    def test_samples_and_mean_stay_as_they_are(self, solved):
        folder, _ = solved
        for name in ("sample-1.png", "sample-2.png", "mean.png"):
            assert (folder / "out" / name).read_bytes() == (folder / "plain" / name).read_bytes()
        one, two = (read_arrays(folder / name / "posterior.npz", "samples") for name in ("plain", "out"))
        assert set(two) - set(one) == {"std", "low", "high"}
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])

    def test_the_spread_is_scaled(self, solved):
        folder, _ = solved
        arrays = read_arrays(folder / "out" / "posterior.npz", "samples")
        samples = torch.from_numpy(arrays["samples"])
        mean, std = samples.mean(0).numpy(), samples.std(0).numpy()
        np.testing.assert_allclose(arrays["std"], 2 * std, atol=1e-6)
        np.testing.assert_allclose(arrays["low"], mean - 5 * std, atol=1e-6)
        np.testing.assert_allclose(arrays["high"], mean + 5 * std, atol=1e-6)
        for name in ("low", "high"):
            shown = read_image(folder / "out" / f"{name}.png").pixels / 2 + 0.5
            np.testing.assert_allclose(shown, arrays[name].clip(0, 1), atol=0.5 / 255 + 1e-6)

    def test_the_record_says_so(self, solved):
        folder, said = solved
        record = json.loads((folder / "out" / "run.json").read_text())
        spread = record["spread"]
        assert (spread["std_factor"], spread["width"], spread["level"]) == (2.0, 5.0, 0.9)
        assert spread["file"] == "c.json"
        assert len(spread["sha256"]) == 64
        assert "over these 10 images" in spread["guarantee"]
        assert spread["differences"] == []
        assert "calibrated on 10 images, std times 2.00" in said.stdout
        assert "guaranteed on average over images" in said.stdout
        plain = json.loads((folder / "plain" / "run.json").read_text())
        assert "spread" not in plain
        assert plain.keys() | {"spread"} == record.keys()
        assert sorted(path.name for path in (folder / "plain").iterdir()) == [
            *("best.png", "comparison.png", "mean.png", "posterior.npz", "run.json", "sample-1.png", "sample-2.png", "std.png")
        ]

    def test_overwriting_without_it_leaves_no_intervals_behind(self, solved, solve):
        folder, _ = solved
        solve("in.png", *PLAIN, "-o", "out", "--overwrite")
        assert not (folder / "out" / "low.png").exists()

    def test_other_settings_are_said_and_other_numbers_of_samples_carried_over(self, solved, solve):
        folder, _ = solved
        other = ("--problem", "sr", "--factor", 2, "--noise", 0.1, "--samples", 4)
        said = solve("in.png", *other, "--calibration", "c.json", "-o", "b")
        assert "noise 0.05 (here 0.1); samples 2 (here 4): the guarantee does not hold for this run" in said.stderr
        assert "the guarantee does not hold" in said.stdout
        record = json.loads((folder / "b" / "run.json").read_text())
        assert record["spread"]["width"] == pytest.approx(5 * exact_width(0.9, 4) / exact_width(0.9, 2), abs=1e-4)
        assert record["notes"][-1] in said.stderr

    def test_known_pixels_have_no_spread(self, learn, solve, tmp_path):
        learn("--problem", "inpaint", "--mask", "mask.png")
        write_image(tmp_path / "in.png", np.random.default_rng(1).integers(0, 256, (3, 12, 12)) / 127.5 - 1)
        solve("in.png", "--problem", "inpaint", "--mask", "mask.png", "--calibration", "c.json", "-o", "out")
        low, high, given = (read_image(tmp_path / name).pixels for name in ("out/low.png", "out/high.png", "in.png"))
        known = np.ones((12, 12), dtype=bool)
        known[3:6] = False
        np.testing.assert_array_equal(low[:, known], given[:, known])
        np.testing.assert_array_equal(high[:, known], given[:, known])
        assert (low[:, ~known] <= high[:, ~known]).all()

    def test_another_prior_problem_or_level_is_refused(self, solved, solve):
        folder, _ = solved
        for arguments, message in (
            ((*PLAIN, "--prior", "natural"), "was made with another prior"),
            (("--problem", "denoise", "--noise", 0.1), "for sr, but none for denoise"),
            ((*PLAIN, "--intervals", 95), "has no 95% intervals"),
        ):
            assert message in solve("in.png", *arguments, "--calibration", "c.json", "-o", "b", code=1).stderr
        assert not (folder / "b").exists()
        with_entry(folder / "c.json", {0.6827: "2"})
        assert "damaged" in solve("in.png", *PLAIN, "--calibration", "c.json", code=1).stderr

    def test_a_file_that_is_not_there(self, solve, photographs):
        assert "none.json" in solve("in.png", *PLAIN, "--calibration", "none.json", code=1).stderr

    def test_learned_from_the_same_images_it_covers_them(self, learn, solve, photographs, tmp_path):
        """The whole way: of the pixels lie in the intervals as many as the formula asks of 10 images, 55 % for 50 %."""
        learn(*PLAIN, "--size", 16)
        inside = []
        for k in range(10):
            with Image.open(photographs / f"{k}.png") as picture:
                picture.crop((0, 0, 16, 16)).save(tmp_path / "crop.png")
            calibrated = ("--calibration", "c.json", "--intervals", 50, "--npz", "-o", "out", "--overwrite")
            solve("crop.png", *PLAIN, "--simulate", "--seed", k, *calibrated)
            arrays = read_arrays(tmp_path / "out" / "posterior.npz", "samples")
            truth = read_image(tmp_path / "crop.png").pixels / 2 + 0.5
            inside.append(((arrays["low"] <= truth) & (truth <= arrays["high"])).mean())
        assert np.mean(inside) == pytest.approx(0.55, abs=0.03)  # 7680 values, and noise of another seed


class TestIntervals:
    @pytest.mark.parametrize("level", [68, 90])
    def test_without_a_calibration_samples_are_taken_as_exact(self, solve, photographs, tmp_path, level):
        said = solve("in.png", *PLAIN, "--intervals", level, "--npz", "-o", "out", "--samples", 3).stdout
        arrays = read_arrays(tmp_path / "out" / "posterior.npz", "samples")
        samples = torch.from_numpy(arrays["samples"])
        width = exact_width(LEVELS[INTERVALS.index(str(level))], 3)
        np.testing.assert_allclose(arrays["high"], (samples.mean(0) + width * samples.std(0)).numpy(), atol=1e-6)
        np.testing.assert_allclose(arrays["std"], samples.std(0).numpy(), atol=1e-6)
        assert f"ends of {level}% intervals, not calibrated" in said
        assert "not calibrated" in json.loads((tmp_path / "out" / "run.json").read_text())["spread"]["from"]

    def test_levels_of_the_command_are_those_of_files(self):
        assert [f"{level:.0%}" for level in LEVELS] == [f"{level}%" for level in INTERVALS]

    def test_one_sample_has_none(self, solve, photographs):
        for option in (("--intervals", 90), ("--calibration", "c.json")):
            assert "needs --samples 2 or more" in solve("in.png", *PLAIN, "--samples", 1, *option, code=2).stderr


def test_the_bundled_file_is_made_of_a_folder(tiny_prior, photographs, solve, tmp_path, monkeypatch, capsys):
    """Two problems of all, with tiny crops; what is there already is not made again."""
    root = Path(__file__).parents[2]
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(root / "benchmarks" / "natural_calibration.py"))["main"]
    given = [str(photographs), "--quick", "--prior", str(tiny_prior), "--out", "natural.json", "--only", "inpaint", "sr"]
    main(given)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:] == ["inpaint", "sr"]
    first = (tmp_path / "natural.json").read_bytes()
    assert set(entries(tmp_path / "natural.json")) == {"inpaint", "sr"}
    monkeypatch.setitem(main.__globals__, "invdiff", lambda *_, **__: pytest.fail("computed again"))
    main(given)
    assert (tmp_path / "natural.json").read_bytes() == first
    monkeypatch.setattr("invdiff.restoration.calibration_file.BUNDLED", tmp_path / "natural.json")
    said = solve("in.png", "--problem", "sr", "--factor", 2, "--noise", 0.01, "--calibration", "natural")
    assert "calibrated on 10 images" in said.stdout
    with pytest.raises(SystemExit):
        main([str(photographs), "--quick"])


def test_natural_is_of_the_bundled_prior() -> None:
    """Whoever changes the weights makes it again: benchmarks/natural_calibration.py."""
    known = load_prior("natural").describe()["sha256"]
    assert {entry["prior"]["sha256"] for entry in entries(BUNDLED).values()} == {known}
    assert entries(BUNDLED).keys() == PROBLEMS.keys() - {"operator"}  # which is another for every person
