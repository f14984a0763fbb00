"""``invdiff simulate``, and ``invdiff solve --operator``, which takes the same operator."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from invdiff.cli.simulate import FORMATS
from invdiff.io.images import read_image
from invdiff.problems import PROBLEMS
from invdiff.restoration import read
from invdiff.restoration.recorded import read_recorded
from invdiff.study import simulation
from invdiff.study.identity import item_seed
from invdiff.study.simulation import Simulation

pytestmark = pytest.mark.slow

CASES = {
    "inpaint": ("--mask", "mask.png", "--noise", 0.05),
    "outpaint": ("--margin", 2, "--noise", 0.05),
    "denoise": ("--noise", "poisson:40"),
    "deblur": ("--kernel", "kernels.npz:box", "--noise", 0.02, "--boundary", "zero"),
    "defocus": ("--radius", 1.5, "--noise", 0.02),
    "motion-deblur": ("--length", 3, "--angle", 45, "--noise", 0.02),
    "sr": ("--factor", 4, "--noise", 0.01),
    "colorize": (),
    "demosaic": ("--pattern", "rggb"),
    "declip": ("--clip-high", 0.7),
    "dequantize": ("--levels", 5),
    "dejpeg": ("--jpeg-quality", 30),
    "compressed-sensing": ("--ratio", 0.5, "--pattern-seed", 3, "--noise", 0.02),
    "phase-retrieval": ("--codes", 2, "--noise", 0.02),
    "mri": ("--acceleration", 2, "--coils", 2, "--noise", 0.02),
    "ct": ("--angles", 5, "--noise", 0.1),
    "operator": ("--operator", "mine.py:build", "--noise", 0.1),
}
MINE = "from invdiff.operators import Blur\nimport torch\ndef build(shape):\n    return Blur(shape, torch.ones(3, 3))\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Clean images with folders in them, and the files of the cases."""
    rng = np.random.default_rng(0)
    (tmp_path / "clean" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.fromarray(rng.integers(0, 256, (34, 42, 3), dtype=np.uint8)).save(tmp_path / "clean" / name)
    mask = np.zeros((34, 42), dtype=np.uint8)
    mask[5:9, 8:15] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.savez(tmp_path / "kernels.npz", box=np.ones((3, 3)))
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(out: Path) -> dict[str, dict]:
    return {line["name"]: line for line in map(json.loads, (out / "images.jsonl").read_text().splitlines())}


def every(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def measured_again(out: Path, name: str):
    """Read a measurement with the settings of ``operator.json``, as ``invdiff solve --operator`` does."""
    told = read_recorded(out / "operator.json", command="simulate", option="--operator", folders=[out])
    values = {key: told.value(key) for key, value in told.arguments.items() if value is not None}
    return read(out / lines(out)[name]["measurement"], values.pop("problem"), channels=1, **values)


class TestOperator:
    def test_a_case_for_every_problem(self):
        assert CASES.keys() == {*PROBLEMS.lines}

    @pytest.mark.parametrize("problem", CASES)
    def test_the_same_operator_and_measurement(self, invdiff, folder, problem):
        invdiff("simulate", "clean", "--problem", problem, *CASES[problem], "--seed", 3, "-o", "sim")
        assert {line["state"] for line in lines(folder / "sim").values()} == {"done"}
        for name in ("a.png", "sub/b.png"):
            again = measured_again(Path("sim"), name)
            words = [f"{word}" for word in CASES[problem]]
            pairs = zip(words[::2], words[1::2], strict=True)
            settings: dict[str, Any] = {flag.removeprefix("--").replace("-", "_"): value for flag, value in pairs}
            there = read(f"clean/{name}", problem, simulate=True, seed=item_seed(3, name), channels=1, **settings)
            x = there.clean
            assert x is not None
            torch.testing.assert_close(again.observed(x), there.observed(x), rtol=1e-5, atol=1e-5)
            assert again.observed.sigma_y == pytest.approx(there.observed.sigma_y, rel=1e-6)
            if problem != "dejpeg":  # a JPEG file is made by an encoder, which rounds pixels as well
                drawn = there.observed.keep_measured(there.observed.measure(x, seed=item_seed(3, name)))
                torch.testing.assert_close(again.measurement, drawn, rtol=1e-5, atol=1e-5)
            reference = Path("sim", "reference", name)
            if reference.exists():
                torch.testing.assert_close(torch.from_numpy(read_image(reference).pixels).float()[None], x, rtol=0, atol=2e-5)
            else:
                assert x.shape[1:] == read_image(f"clean/{name}").pixels.shape

    def test_every_image_has_noise_of_its_own(self, invdiff, folder):
        (folder / "clean" / "sub" / "b.png").write_bytes((folder / "clean" / "a.png").read_bytes())
        invdiff("simulate", "clean", "--problem", "denoise", "--noise", 0.1, "-o", "sim")
        a, b = (np.load(folder / "sim" / "measurements" / f"{name}.npy") for name in ("a", "sub/b"))
        clean = read_image(folder / "clean" / "a.png").pixels / 2 + 0.5
        assert abs(np.corrcoef((a - clean).ravel(), (b - clean).ravel())[0, 1]) < 0.05
        assert min(a.min(), b.min()) < 0  # not clipped
        assert a.dtype == np.float32
        assert np.std(a - clean) == pytest.approx(0.1, rel=0.05)

    def test_formats(self, invdiff, folder):
        assert set(FORMATS) == {"npy", *simulation.BITS}
        for wanted, bits in (("png", 8), ("png16", 16)):
            invdiff("simulate", "clean", "--problem", "denoise", "--noise", 0.1, "--format", wanted, "-o", wanted)
            assert read_image(folder / wanted / "measurements" / "a.png").bits == bits
            record = json.loads((folder / wanted / "operator.json").read_text())
            assert record["rounding"] == pytest.approx(1 / (2**bits - 1) / 12**0.5, rel=1e-3)
        error = invdiff("simulate", "clean", "--problem", "ct", "--angles", 3, "--format", "png", "-o", "x", code=2).stderr
        assert "--format is for measured pictures" in error


class TestSolve:
    @pytest.fixture
    def sim(self, invdiff, folder):
        invdiff("simulate", "clean", "--problem", "inpaint", "--mask", "mask.png", "--noise", 0.05, "-o", "sim")
        return folder / "sim"

    def test_problem_options_and_noise(self, solve, folder, sim):
        (folder / "mask.png").unlink()  # the copy counts
        solve("sim/measurements/a.npy", "--operator", "sim/operator.json", "-o", "out")
        record = json.loads(Path("out", "run.json").read_text())
        arguments = record["arguments"]
        assert (arguments["problem"], arguments["noise"], arguments["mask"]) == ("inpaint", 0.05, "sim/operator/mask.png")
        solve("--config", "out/run.json", "-o", "again")
        assert every(folder / "out") == every(folder / "again")
        solve(
            "sim/measurements/a.npy", f"--operator={sim}/operator.json", "--config", "out/run.json", "--seed", 1, "-o", "other"
        )
        assert json.loads(Path("other", "run.json").read_text())["arguments"]["seed"] == 1

    def test_several_inputs_and_a_folder(self, solve, folder, sim):
        solve("sim/measurements/a.npy", "sim/measurements/sub/b.npy", "--operator", "sim/operator.json", "-o", "out")
        assert {path.name for path in Path("out").iterdir()} == {"a", "b"}
        solve("sim/measurements", "--operator", "sim/operator.json", "--keep", "mean", "-o", "all")
        assert {path.as_posix() for path in Path("all").rglob("mean.png")} == {"all/a/mean.png", "all/sub/b/mean.png"}

    def test_own_code(self, solve, invdiff, folder):
        invdiff("simulate", "clean", "--problem", "operator", "--operator", "mine.py:build", "-o", "own")
        (folder / "mine.py").unlink()
        solve("own/measurements/a.npy", "--operator", "own/operator.json", "-o", "out")
        (folder / "own" / "operator" / "mine.py").write_text(MINE + "open('was-run', 'w')\n")
        error = solve("own/measurements/a.npy", "--operator", "own/operator.json", "-o", "out2", code=2).stderr
        assert "own/operator/mine.py" in error
        assert not (folder / "was-run").exists()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--problem", "denoise"), "--problem denoise: sim/operator.json is for --problem inpaint"),
            (("--mask", "mask.png"), "--mask: the operator is that of sim/operator.json"),
            (("--simulate",), "--simulate: the operator is that of"),
        ],
    )
    def test_what_disagrees(self, solve, folder, sim, words, message):
        given = ("sim/measurements/a.npy", "--operator", "sim/operator.json", *words)
        assert message in solve(*given, "-o", "out", code=2).stderr

    def test_no_such_file(self, solve, invdiff, folder, sim):
        assert "INPUT is missing" in solve("--operator", "sim/operator.json", code=2).stderr
        (folder / "bad.json").write_text('{"command": "solve", "arguments": {}}')
        assert "no record of `invdiff simulate`" in solve("clean/a.png", "--operator", "bad.json", code=2).stderr
        error = invdiff("solve", "clean/a.png", "--problem", "denoise", "--operator", "mine.py:build", code=2).stderr
        assert "--operator belongs to --problem operator, not to denoise. Expected operator.json of `invdiff simulate`" in error
        (sim / "operator" / "mask.png").write_bytes(b"another")
        (folder / "mask.png").unlink()
        assert "--mask 'operator/mask.png' with the SHA-256" in solve("a.npy", "--operator", "sim/operator.json", code=2).stderr


class TestFolder:
    GIVEN = ("--problem", "denoise", "--noise", 0.1)

    def test_failures_are_named_and_others_done(self, invdiff, folder):
        (folder / "clean" / "broken.png").write_text("no picture")
        (folder / "clean" / ".hidden.png").write_text("no picture")
        result = invdiff("simulate", "clean", *self.GIVEN, "-o", "sim", code=1)
        assert "1 of 3 images failed. clean/broken.png: is damaged or not an image" in result.stderr
        assert "2 of 3 images, in sim/measurements" in result.stdout
        found = lines(folder / "sim")
        assert {name: line["state"] for name, line in found.items()} == {
            "a.png": "done",
            "broken.png": "failed",
            "sub/b.png": "done",
        }

    def test_a_second_run_measures_what_changed(self, invdiff, folder, monkeypatch):
        invdiff("simulate", "clean", *self.GIVEN, "-o", "sim")
        before = every(folder / "sim")
        measured, measure = [], Simulation.measure

        def counted(self, path, name):
            measured.append(name)
            return measure(self, path, name)

        monkeypatch.setattr(Simulation, "measure", counted)
        invdiff("simulate", "clean", *self.GIVEN, "-o", "sim")
        assert (measured, every(folder / "sim")) == ([], before)
        (folder / "sim" / "measurements" / "a.npy").write_bytes(b"damaged")
        (folder / "clean" / "c.png").write_bytes((folder / "clean" / "a.png").read_bytes())
        with (folder / "sim" / "images.jsonl").open("a") as file:
            file.write('{"name": "a.p')  # torn by a kill
        invdiff("simulate", "clean", *self.GIVEN, "-o", "sim")
        assert measured == ["a.png", "c.png"]
        assert every(folder / "sim").items() >= {name: text for name, text in before.items() if name != "images.jsonl"}.items()
        invdiff("simulate", "clean", *self.GIVEN, "-o", "new")
        assert every(folder / "new") == every(folder / "sim")

    def test_other_settings(self, invdiff, folder):
        invdiff("simulate", "clean", "--problem", "sr", "--factor", 2, "-o", "sim")
        (folder / "sim" / "notes.txt").write_text("mine")
        other = ("simulate", "clean", *self.GIVEN, "-o", "sim")
        assert "has measurements with other settings" in invdiff(*other, code=1).stderr
        (folder / "sim" / "measurements" / "a.npy").write_bytes(b"edited")
        assert "was changed after the run that wrote it" in invdiff(*other, "--overwrite", code=1).stderr
        (folder / "sim" / "measurements" / "a.npy").unlink()
        invdiff(*other, "--overwrite")
        assert set(every(folder / "sim")) == {
            "images.jsonl", "measurements/a.npy", "measurements/sub/b.npy", "notes.txt", "operator.json"
        }  # fmt: skip

    def test_places_that_are_not_ours(self, invdiff, folder):
        (folder / "full").mkdir()
        (folder / "full" / "notes.txt").write_text("mine")
        for more in ((), ("--overwrite",)):
            assert "full is not empty" in invdiff("simulate", "clean", *self.GIVEN, *more, "-o", "full", code=1).stderr
        assert "is in the folder clean" in invdiff("simulate", "clean", *self.GIVEN, "-o", "clean/sim", code=2).stderr
        assert "is a file" in invdiff("simulate", "clean", *self.GIVEN, "-o", "mask.png", code=1).stderr
        (folder / "none").mkdir()
        assert "holds no images" in invdiff("simulate", "none", *self.GIVEN, "-o", "sim", code=1).stderr

    def test_no_places_of_the_machine(self, invdiff, folder):
        (folder / "clean" / "broken.png").write_text("no picture")
        mask = folder / "mask.png"
        invdiff("simulate", folder / "clean", "--problem", "inpaint", "--mask", mask, "-o", folder / "sim", code=1)
        for name in ("operator.json", "images.jsonl"):
            assert str(folder) not in (folder / "sim" / name).read_text()
            assert str(Path.home()) + os.sep not in (folder / "sim" / name).read_text()

    def test_names_that_differ_in_their_suffix(self, invdiff, folder):
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(folder / "clean" / "a.jpg")
        invdiff("simulate", "clean", *self.GIVEN, "-o", "sim")
        assert {"measurements/a.jpg.npy", "measurements/a.png.npy"} < set(every(folder / "sim"))
        assert item_seed(0, "a.png") != item_seed(1, "a.png") != item_seed(1, "b.png")

    def test_options_that_simulations_do_not_take(self, invdiff, folder):
        assert "needs --mask" in invdiff("simulate", "clean", "--problem", "inpaint", "-o", "sim", code=2).stderr
        error = invdiff("simulate", "clean", "--problem", "inpaint", "--mask", "none.png", "-o", "sim", code=1).stderr
        assert "--mask none.png: no such file" in error
        error = invdiff("simulate", "clean", "--problem", "denoise", "--noise", "auto", "-o", "sim", code=2).stderr
        assert "give the level of the noise to add" in error
        assert not (folder / "sim").exists()
