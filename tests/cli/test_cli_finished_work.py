"""Finished work is kept: whatever happens to inputs and target meanwhile, the results are where a message says."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import invdiff as package
from invdiff.io.images import read_image, write_image
from invdiff.io.paths import sha256_of
from invdiff.restoration import pictures
from invdiff.restoration import result as results

DENOISE = ("in.png", "--problem", "denoise", "--noise", 0.1)
FEW = {"problem": "denoise", "noise": 0.1, "precision": "float32", "steps": 2, "samples": 2}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_image(tmp_path / "in.png", np.random.default_rng(0).uniform(-1, 1, (3, 16, 16)))
    Image.fromarray(np.eye(16) > 0).save(tmp_path / "mask.png")
    np.save(tmp_path / "kernel.npy", np.ones((3, 3)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    return tmp_path


@pytest.fixture
def meanwhile(monkeypatch):
    """Do something while the samples are drawn."""

    def arrange(action):
        run = package.PosteriorSampler.run

        def sampling(*arguments, **options):
            action()
            return run(*arguments, **options)

        monkeypatch.setattr(package.PosteriorSampler, "run", sampling)

    return arrange


def place_of(result) -> Path:
    """Return the folder that the message of a failed run names."""
    (message,) = re.findall(r"Error: (.*)\n", result.stderr)
    return Path(message.split(" ")[-1].rstrip("."))


def check_complete(folder: Path) -> None:
    record = json.loads((folder / "run.json").read_text())
    assert record["outputs"] == {path.name: sha256_of(path) for path in folder.iterdir() if path.name != "run.json"}
    assert {"best.png", "mean.png", "sample-1.png", "sample-2.png", "std.png", "comparison.png"} <= record["outputs"].keys()
    for name in record["outputs"]:
        read_image(folder / name)


class TestDigests:
    @pytest.mark.parametrize("what", ["removed", "replaced", "rewritten"])
    def test_of_what_was_read(self, solve, folder, tiny_prior, meanwhile, what):
        names = {"input": "in.png", "mask": "mask.png", "prior": "tiny.safetensors"}
        (folder / "tiny.safetensors").write_bytes(tiny_prior.read_bytes())
        digests = {role: sha256_of(folder / name) for role, name in names.items()}

        def change():
            for name in names.values():
                if what == "removed":
                    (folder / name).unlink()
                elif what == "replaced":
                    (folder / "new").write_bytes(b"another")
                    (folder / "new").replace(folder / name)
                else:
                    (folder / name).write_bytes(b"another")

        meanwhile(change)
        solve("in.png", "--problem", "inpaint", "--mask", "mask.png", "--prior", "tiny.safetensors", "-o", "out")
        record = json.loads((folder / "out" / "run.json").read_text())
        assert {role: file["sha256"] for role, file in record["files"].items()} | {
            "prior": record["prior"]["sha256"]
        } == digests
        check_complete(folder / "out")

    def test_a_kernel_and_own_code(self, solve, folder, meanwhile):
        (folder / "mine.py").write_text(
            "from invdiff.operators import Identity\ndef build(shape):\n    return Identity(shape, sigma_y=0.1)\n"
        )
        digests = {name: sha256_of(folder / name) for name in ("kernel.npy", "mine.py")}
        meanwhile(lambda: [(folder / name).unlink() for name in digests if (folder / name).exists()])
        solve("in.png", "--problem", "operator", "--operator", "mine.py:build", "--noise", 0.1, "-o", "a")
        np.save(folder / "kernel.npy", np.ones((3, 3)))
        solve("in.png", "--problem", "deblur", "--kernel", "kernel.npy", "--noise", 0.1, "-o", "b")
        records = [json.loads((folder / name / "run.json").read_text())["files"] for name in "ab"]
        assert records[0]["operator"]["sha256"] == digests["mine.py"]
        assert records[1]["kernel"]["sha256"] == digests["kernel.npy"]

    def test_a_file_that_changes_while_it_is_read(self, solve, folder, monkeypatch):
        from invdiff.restoration import job

        read = job.read

        def changing(*arguments, **options):
            measured = read(*arguments, **options)
            write_image(folder / "in.png", np.zeros((3, 16, 16)))
            return measured

        monkeypatch.setattr(job, "read", changing)
        assert "in.png changed while it was read" in solve(*DENOISE, code=1).stderr

    @pytest.mark.parametrize("problem", ["dejpeg", "ct"])
    def test_of_inputs_that_are_no_pictures(self, solve, folder, meanwhile, problem):
        if problem == "dejpeg":
            Image.open(folder / "in.png").save(folder / "in.jpg", quality=30)
            arguments = ("in.jpg",)
        else:
            solve("in.png", "--problem", "ct", "--angles", 4, "--noise", 0.1, "--simulate", "-o", "sim")
            (folder / "sim" / "measurement.npz").rename(folder / "in.npz")
            arguments = ("in.npz", "--noise", 0.1)
        digest = sha256_of(folder / arguments[0])
        meanwhile((folder / arguments[0]).unlink)
        solve(*arguments, "--problem", problem, "-o", "out")
        assert json.loads((folder / "out" / "run.json").read_text())["files"]["input"]["sha256"] == digest


class TestFilledMeanwhile:
    @pytest.mark.parametrize("how", ["new", "empty", "overwrite"])
    def test_results_stay_beside(self, solve, folder, meanwhile, how):
        more = ("-o", "out", "--overwrite") if how == "overwrite" else ("-o", "out")
        if how != "new":
            (folder / "out").mkdir()

        def fill():
            (folder / "out").mkdir(exist_ok=True)
            (folder / "out" / "mean.png").write_bytes(b"theirs")

        meanwhile(fill)
        place = place_of(solve(*DENOISE, *more, code=1))
        assert place.name == "out-2"
        check_complete(place)
        assert [path.name for path in (folder / "out").iterdir()] == ["mean.png"]
        assert (folder / "out" / "mean.png").read_bytes() == b"theirs"

    def test_a_default_name_takes_the_next_number(self, solve, folder, meanwhile):
        def fill():
            (folder / "invdiff-out" / "in-denoise").mkdir()
            (folder / "invdiff-out" / "in-denoise" / "theirs").touch()

        meanwhile(fill)
        assert solve(*DENOISE).stdout.endswith("results  invdiff-out/in-denoise-2\n")
        check_complete(Path("invdiff-out/in-denoise-2"))

    def test_an_empty_folder_of_the_default_name_is_taken(self, solve, folder):
        """As earlier versions left it when they were killed."""
        (folder / "invdiff-out" / "in-denoise").mkdir(parents=True)
        assert solve(*DENOISE).stdout.endswith("results  invdiff-out/in-denoise\n")
        check_complete(Path("invdiff-out/in-denoise"))

    def test_inside_the_current_folder(self, solve, folder, meanwhile, monkeypatch):
        (folder / "here").mkdir()
        (folder / "in.png").rename(folder / "here" / "in.png")
        monkeypatch.chdir(folder / "here")
        meanwhile(lambda: Path("mean.png").write_bytes(b"theirs"))
        place = place_of(solve(*DENOISE, "-o", ".", "--overwrite", code=1))
        assert place == folder / "here-2"
        check_complete(place)

    def test_a_folder_that_vanished(self, solve, folder, meanwhile):
        (folder / "out").mkdir()
        meanwhile(lambda: (folder / "out").rename(folder / "elsewhere"))
        result = solve(*DENOISE, "-o", "out", code=1)
        check_complete(place_of(result))

    def test_two_runs_into_one_folder(self, solve, folder, meanwhile):
        inner = []

        def again():
            if not inner:
                inner.append(solve(*DENOISE, "-o", "out", "--seed", 1, code=1))

        meanwhile(again)
        solve(*DENOISE, "-o", "out")
        assert "another run is writing its results there" in inner[0].stderr
        check_complete(Path("out"))


class TestDiskFull:
    def test_written_elsewhere(self, solve, folder, monkeypatch):
        panel, fails = pictures.comparison_panel, [True]

        def full(*arguments, **options):
            if fails.pop() if fails else False:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            panel(*arguments, **options)

        monkeypatch.setattr(pictures, "comparison_panel", full)
        result = solve(*DENOISE, "-o", "out", code=1)
        assert "No space left on device" in result.stderr
        place = place_of(result)
        assert place.parent == folder / "temporary"
        check_complete(place)
        assert not (folder / "out").exists()

    @pytest.mark.parametrize("arguments", [("-o", "new/deep"), ("-o", "out", "--overwrite"), ("-o", "empty"), ()], ids=str)
    @pytest.mark.parametrize(
        "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("a font is broken")], ids=str
    )
    def test_what_could_be_written_is_kept(self, solve, folder, monkeypatch, arguments, error):
        solve(*DENOISE, "-o", "out")
        (folder / "empty").mkdir()
        earlier = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}

        def full(*arguments, **options):
            raise error

        monkeypatch.setattr(pictures, "comparison_panel", full)
        result = solve(*DENOISE, "--npz", *arguments, code=1)
        assert error.args[-1] in result.stderr
        place = place_of(result)
        assert place.name.endswith("-incomplete")
        assert sorted(path.name for path in place.iterdir()) == [
            "best.png", "mean.png", "posterior.npz", "run.json", "sample-1.png", "sample-2.png", "std.png"
        ]  # fmt: skip
        assert set(json.loads((place / "run.json").read_text())["outputs"]) == {
            path.name for path in place.iterdir() if path.name != "run.json"
        }
        assert {path.name: path.read_bytes() for path in (folder / "out").iterdir()} == earlier
        assert not [path for path in folder.rglob("*") if path.name.startswith(".")]
        assert list((folder / "temporary").iterdir()) == []

    def test_nothing_can_be_written(self, solve, folder, monkeypatch):
        def full(*arguments, **options):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(pictures, "write_image", full)
        error = solve(*DENOISE, "-o", "out", code=1).stderr
        assert error.endswith("Error: out: the results could not be written (No space left on device).\n")
        assert sorted(path.name for path in folder.iterdir()) == ["in.png", "kernel.npy", "mask.png", "temporary"]

    @pytest.mark.slow
    @pytest.mark.skipif(sys.platform == "win32", reason="has no such limits")
    def test_a_real_limit(self, folder, tiny_prior):
        """No file may be larger than 16 KiB: the samples fit, the panel does not."""
        limit = (
            "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, 2**14)); from invdiff.cli import main; "
        )
        few = ("--prior", tiny_prior, "--precision", "float32", "--steps", 1, "--samples", 2, "-o", "out")
        done = subprocess.run(
            [sys.executable, "-c", limit + "main()", "solve", *map(str, (*DENOISE, *few))], capture_output=True, text=True
        )
        assert done.returncode == 1
        assert done.stderr.endswith("File too large). Those that could are in out-incomplete.\n")
        assert {"best.png", "mean.png", "sample-1.png", "sample-2.png", "run.json"} <= {
            path.name for path in Path("out-incomplete").iterdir()
        }

    def test_in_python(self, folder, tiny_prior, monkeypatch):
        result = package.restore("in.png", prior=tiny_prior, **FEW)
        write, calls = results.write, []

        def once(*arguments, **options):
            calls.append(True)
            if len(calls) == 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(*arguments, **options)

        monkeypatch.setattr(results, "write", once)
        with pytest.raises(OSError, match="They are in") as error:
            result.save("out")
        check_complete(Path(str(error.value).split()[-1].rstrip(".")))

    def test_calibrate(self, invdiff, folder, tiny_prior, monkeypatch):
        for number in range(10):
            write_image(folder / f"{number}.png", np.random.default_rng(number).uniform(-1, 1, (3, 16, 16)))
        plot = "invdiff.io.figures.calibration_plot"
        monkeypatch.setattr(plot, lambda *a, **b: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        few = ("--problem", "denoise", "--noise", 0.1, "--size", 16, "--samples", 2, "--steps", 1, "--prior", tiny_prior)
        result = invdiff("calibrate", folder, *few, "-o", "out", "--save", "c.json", code=1)
        assert "saved: c.json" in result.stdout  # and the table is shown
        assert (place_of(result) / "calibration.json").exists()
        assert "denoise" in json.loads((folder / "c.json").read_text())["problems"]

    def test_calibrate_where_the_file_was_filled_meanwhile(self, invdiff, folder, tiny_prior, meanwhile):
        for number in range(10):
            write_image(folder / f"{number}.png", np.random.default_rng(number).uniform(-1, 1, (3, 16, 16)))
        meanwhile(lambda: (folder / "c.json").write_text("theirs"))
        few = ("--problem", "denoise", "--noise", 0.1, "--size", 16, "--samples", 2, "--steps", 1, "--prior", tiny_prior)
        result = invdiff("calibrate", folder, *few, "-o", "out", "--save", "c.json", code=1)
        assert (folder / "c.json").read_text() == "theirs"
        assert "denoise" in json.loads(place_of(result).read_text())["problems"]

    @pytest.mark.parametrize("option", ["--json", "--csv"])
    def test_evaluate(self, invdiff, folder, monkeypatch, option):
        replace, calls = os.replace, []

        def once(source, target):
            if not calls and Path(target).name == "f":
                calls.append(True)
                raise OSError(errno.ENOSPC, "No space left on device", str(target))
            replace(source, target)

        monkeypatch.setattr(os, "replace", once)
        result = invdiff("evaluate", "--reference", "in.png", "--restored", "in.png", "--metrics", "psnr", option, "f", code=1)
        assert "in.png" in result.stdout  # the table
        assert place_of(result).exists()
