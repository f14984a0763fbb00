"""No command replaces or removes a file that an earlier run of it did not write, or that it reads."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import invdiff as package
from invdiff.io.figures import is_figure
from invdiff.io.images import write_image
from invdiff.io.paths import same_file, sha256_of
from invdiff.priors.save import read_metadata

CT = ("--problem", "ct", "--noise", 0.1)
DENOISE = ("--problem", "denoise", "--noise", 0.1)
TRAIN = ("--widths", "8,16", "--blocks", "1,1", "--steps", 1, "--batch", 2, "--crop", 16, "--report-every", 1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    write_image(tmp_path / "in.png", draw.uniform(-1, 1, (3, 16, 16)))
    (tmp_path / "photos").mkdir()
    for name in ("1", "2", "3", "sample-07", "sample-of-my-holiday"):
        write_image(tmp_path / "photos" / f"{name}.png", draw.uniform(-1, 1, (3, 24, 24)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def photos(folder):
    return folder / "photos"


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unsampled(monkeypatch):
    """Let sampling fail: what is refused must be refused before."""

    def never(*arguments, **options):
        raise AssertionError("sampled")

    monkeypatch.setattr(package.PosteriorSampler, "run", never)


class TestSolve:
    def test_the_record_lists_what_was_written(self, solve, folder):
        solve("in.png", *DENOISE, "-o", "out", "--npz")
        record = json.loads((folder / "out" / "run.json").read_text())
        assert record["command"] == "solve"
        assert record["outputs"] == {
            path.name: sha256_of(path) for path in (folder / "out").iterdir() if path.name != "run.json"
        }

    @pytest.mark.parametrize(
        "arguments",
        [
            ("in.png", *DENOISE, "--intervals", 80, "--npz"),
            ("in.png", *DENOISE, "--samples", 1),
            ("in.png", *DENOISE, "--samples", 11, "--steps", 1),
            ("in.png", "--problem", "sr", "--factor", 2, "--simulate"),
            ("in.png", *CT, "--angles", 4, "--simulate"),
            ("in.png", "--problem", "mri", "--acceleration", 2, "--noise", 0.1, "--simulate"),
            ("in.png", "--problem", "dejpeg", "--jpeg-quality", 20, "--simulate"),
        ],
        ids=str,
    )
    def test_what_will_be_written_is_known_before(self, solve, folder, monkeypatch, arguments):
        planned = []
        results = package.restoration.Job.results

        def noted(*given, **options):
            planned.append(results(*given, **options).names)
            return results(*given, **options)

        monkeypatch.setattr(package.restoration.Job, "results", noted)
        solve(*arguments, "-o", "out")
        written = set(json.loads((folder / "out" / "run.json").read_text())["outputs"])
        assert written <= set(planned[0])
        assert all(name.startswith("measurement") for name in set(planned[0]) - written)

    def test_an_input_among_the_results_is_refused(self, solve, folder, monkeypatch):
        solve("in.png", *CT, "--angles", 8, "--simulate", "-o", "sim")
        before = contents(folder)
        unsampled(monkeypatch)
        error = solve("sim/measurement.npz", *CT, "-o", "sim", "--overwrite", code=1).stderr
        assert "sim/measurement.npz is read by this run and would be replaced or removed" in error
        assert contents(folder) == before

    @pytest.mark.parametrize("how", ["path", "./path", "symbolic link", "hard link", "folder link"])
    @pytest.mark.parametrize("role", ["input", "mask", "prior", "calibration"])
    def test_any_file_that_is_read_is_protected(self, solve, folder, tiny_prior, monkeypatch, how, role):
        solve("in.png", *DENOISE, "-o", "out")
        target = folder / "out" / "sample-1.png"
        content = {"mask": (folder / "in.png").read_bytes(), "prior": tiny_prior.read_bytes()}
        if role in content:
            target.write_bytes(content[role])
        if role == "mask":
            Image.fromarray(np.eye(16) > 0).save(target)
        given = "out/sample-1.png"
        if how == "./path":
            given = "./out/../out/./sample-1.png"
        elif how == "folder link":
            (folder / "other").symlink_to(folder / "out")
            given = "other/sample-1.png"
        elif how != "path":
            (folder / "link.png").symlink_to(target) if how == "symbolic link" else os.link(target, folder / "link.png")
            given = "link.png"
        before = contents(folder)
        unsampled(monkeypatch)
        arguments = {
            "input": (given, *DENOISE),
            "mask": ("in.png", "--problem", "inpaint", "--mask", given),
            "prior": ("in.png", *DENOISE, "--prior", given),
            "calibration": ("in.png", *DENOISE, "--calibration", given),
        }[role]
        message = solve(*arguments, "-o", "out", "--overwrite", code=1).stderr
        assert ("is read by this run" in message) or role == "calibration"  # a picture is no calibration file
        assert contents(folder) == before

    def test_a_folder_of_photographs(self, solve, photos):
        before = contents(photos)
        solve("photos/sample-07.png", *DENOISE, "-o", "photos", "--overwrite")
        assert before.items() <= contents(photos).items()
        solve("photos/sample-07.png", *DENOISE, "-o", "photos", "--overwrite", "--seed", 1)
        assert before.items() <= contents(photos).items()
        assert not (photos / "sample-3.png").exists()

    @pytest.mark.parametrize("name", ["mean.png", "sample-1.png", "std.png", "comparison.png", "run.json", "measurement.npz"])
    @pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
    def test_what_no_record_lists_is_in_the_way(self, solve, folder, photos, monkeypatch, name, kind):
        if kind == "file":
            (photos / name).write_bytes(b"{}")
        elif kind == "folder":
            (photos / name).mkdir()
        else:
            (photos / name).symlink_to("nowhere")
        before = contents(folder)
        unsampled(monkeypatch)
        error = solve("in.png", "--problem", "sr", "--factor", 2, "--simulate", "-o", "photos", "--overwrite", code=1).stderr
        assert f"photos/{name} is in the way" in error
        assert "Move it" in error
        assert contents(folder) == before
        assert os.path.lexists(photos / name)

    def test_a_result_that_was_edited_is_kept(self, solve, folder, monkeypatch):
        solve("in.png", *DENOISE, "-o", "out")
        (folder / "out" / "mean.png").write_bytes(b"retouched")
        unsampled(monkeypatch)
        assert (
            "out/mean.png was changed after the run that wrote it"
            in solve("in.png", *DENOISE, "-o", "out", "--overwrite", code=1).stderr
        )
        assert (folder / "out" / "mean.png").read_bytes() == b"retouched"

    def test_a_result_that_was_moved_away_is_not_missed(self, solve, folder):
        solve("in.png", *DENOISE, "-o", "out")
        (folder / "out" / "mean.png").rename(folder / "chosen.png")
        solve("in.png", *DENOISE, "-o", "out", "--overwrite")
        assert (folder / "out" / "mean.png").exists()
        assert (folder / "chosen.png").exists()

    @pytest.mark.parametrize(
        "record",
        [
            b"not json",
            b"[1, 2]",
            b'{"arguments": {"samples": 2}}',
            b'{"command": "calibrate", "outputs": {}}',
            b'{"command": "solve", "outputs": {"../in.png": "0"}}',
            b'{"command": "solve", "outputs": ["in.png"]}',
        ],
        ids=str,
    )
    def test_a_record_that_lists_nothing_is_refused(self, solve, folder, monkeypatch, record):
        (folder / "out").mkdir()
        (folder / "out" / "run.json").write_bytes(record)
        before = contents(folder)
        unsampled(monkeypatch)
        assert "out/run.json is in the way" in solve("in.png", *DENOISE, "-o", "out", "--overwrite", code=1).stderr
        assert contents(folder) == before

    def test_in_python(self, folder, tiny_prior):
        few = {"prior": tiny_prior, "precision": "float32", "steps": 2, "samples": 2, "noise": 0.1}
        result = package.restore("in.png", problem="denoise", **few)
        result.save("out")
        again = package.restore("out/mean.png", problem="denoise", **few)
        with pytest.raises(ValueError, match=r"out/mean\.png is read by this run"):
            again.save("out", overwrite=True)
        (folder / "photos" / "mean.png").write_bytes(b"mine")
        with pytest.raises(ValueError, match=r"photos/mean\.png is in the way"):
            result.save("photos", overwrite=True)


class TestCalibrate:
    SMALL = ("--problem", "denoise", "--noise", 0.1, "--size", 24, "--cases", 5, "--samples", 2, "--steps", 2)

    def test_beside_a_solve(self, invdiff, solve, folder, tiny_prior):
        solve("in.png", *DENOISE, "-o", "res")
        before = contents(folder / "res")
        for seed in range(2):
            invdiff("calibrate", "photos", *self.SMALL, "--prior", tiny_prior, "-o", "res", "--overwrite", "--seed", seed)
        after = contents(folder / "res")
        assert before.items() <= after.items()
        assert after.keys() - before.keys() == {"calibration.json", "calibration.png"}
        solve("in.png", *DENOISE, "-o", "res", "--overwrite", "--samples", 1)
        assert (folder / "res" / "calibration.png").read_bytes() == after["res/calibration.png".removeprefix("res/")]

    def test_a_photograph_in_the_way(self, invdiff, photos, tiny_prior):
        (photos / "1.png").rename(photos / "calibration.png")
        before = contents(photos)
        arguments = ("calibrate", "photos", *self.SMALL, "--prior", tiny_prior, "-o", "photos", "--overwrite")
        assert "photos/calibration.png is in the way" in invdiff(*arguments, code=1).stderr
        assert contents(photos) == before

    def test_its_own_figure_is_no_photograph(self, invdiff, photos, tiny_prior):
        arguments = ("calibrate", "photos", *self.SMALL, "--prior", tiny_prior, "-o", "photos", "--overwrite", "--json")
        first, second = (json.loads(invdiff(*arguments).stdout) for _ in range(2))
        assert first["crops"] == second["crops"]

    @pytest.mark.parametrize("name", ["calibration.json", "calibration.png"])
    def test_save_among_its_own_results(self, invdiff, folder, tiny_prior, monkeypatch, name):
        (folder / "res").mkdir()
        for number in range(6):
            write_image(folder / "photos" / f"more-{number}.png", np.zeros((3, 24, 24)))
        unsampled(monkeypatch)
        arguments = ("calibrate", "photos", *self.SMALL, "--cases", 11, "--prior", tiny_prior, "-o", "res")
        assert f"this run writes its {name} there" in invdiff(*arguments, "--save", f"res/{name}", code=1).stderr

    @pytest.mark.parametrize("what", ["prior", "mask", "photograph"])
    def test_save_over_what_is_read(self, invdiff, folder, tiny_prior, monkeypatch, what):
        (folder / "tiny.safetensors").write_bytes(tiny_prior.read_bytes())
        Image.fromarray(np.eye(24) > 0).save(folder / "mask.png")
        path = {"prior": "tiny.safetensors", "mask": "mask.png", "photograph": "photos/1.png"}[what]
        before = contents(folder)
        unsampled(monkeypatch)
        arguments = ("--problem", "inpaint", "--mask", "mask.png", "--size", 24, "--prior", "tiny.safetensors", "--save", path)
        message = invdiff("calibrate", "photos", *arguments, code=1).stderr
        assert path in message
        assert ("is read by this run" if what != "photograph" else "not a calibration file") in message
        assert contents(folder) == before


class TestEvaluate:
    COMMAND = ("evaluate", "--reference", "photos", "--restored", "photos", "--metrics", "psnr")

    @pytest.mark.parametrize("option", ["--json", "--csv"])
    @pytest.mark.parametrize("path", ["photos/1.png", "photos/../photos/1.png", "link.png"])
    def test_over_an_image(self, invdiff, folder, option, path):
        (folder / "link.png").symlink_to(folder / "photos" / "1.png")
        before = contents(folder)
        result = invdiff(*self.COMMAND, option, path, code=1)
        assert result.stdout == ""
        assert "is read by this run" in result.stderr
        assert contents(folder) == before

    def test_over_a_single_reference(self, invdiff, folder):
        before = contents(folder)
        for name in ("in.png", "photos/1.png"):
            arguments = ("evaluate", "--reference", "in.png", "--restored", "photos/1.png", "--json", name)
            assert "is read by this run" in invdiff(*arguments, code=1).stderr
        assert contents(folder) == before

    @pytest.mark.parametrize("names", [("f", "f"), ("f", "./f"), ("f", "photos/../f")])
    def test_one_file_for_both(self, invdiff, folder, names):
        assert "are one file" in invdiff(*self.COMMAND, "--json", names[0], "--csv", names[1], code=1).stderr
        assert not (folder / "f").exists()

    @pytest.mark.parametrize("option", ["--json", "--csv"])
    @pytest.mark.parametrize("content", [b"my notes", b'{"mine": 1}', b"time,value\n1,2\n", b"[]", b"\xff\xfe"])
    def test_over_something_else(self, invdiff, folder, option, content):
        (folder / "f").write_bytes(content)
        result = invdiff(*self.COMMAND, option, "f", code=1)
        assert result.stdout == ""
        assert "f exists and is not a" in result.stderr
        assert (folder / "f").read_bytes() == content

    def test_over_its_own(self, invdiff, folder):
        for _ in range(2):
            invdiff(*self.COMMAND, "--json", "f.json", "--csv", "f.csv")

    def test_a_missing_folder_is_found_before_the_work(self, invdiff, folder):
        result = invdiff(*self.COMMAND, "--json", "no/f.json", code=1)
        assert result.stdout == ""
        assert "the folder no does not exist" in result.stderr


class TestTrain:
    @pytest.mark.parametrize("name", ["mine.md", "mine-skipped.txt", "mine.safetensors", "mine.ckpt", "mine-samples"])
    @pytest.mark.parametrize("more", [(), ("--overwrite",)], ids=str)
    def test_over_something_else(self, invdiff, folder, name, more):
        (folder / name).write_text("my notes")
        before = contents(folder)
        code = 2 if name == "mine.safetensors" and not more else 1  # no checkpoint of its training is beside it
        message = invdiff("train", "photos", "--out", "mine.safetensors", *TRAIN, *more, code=code).stderr
        assert name in message
        assert contents(folder) == before

    def test_over_a_grid_of_somebody(self, invdiff, folder):
        (folder / "mine-samples").mkdir()
        write_image(folder / "mine-samples" / "step-0000001.png", np.zeros((3, 24, 24)))
        before = contents(folder)
        assert "is not a grid of samples" in invdiff("train", "photos", "--out", "mine.safetensors", *TRAIN, code=1).stderr
        assert contents(folder) == before

    def test_over_a_prior_of_another_command(self, invdiff, folder, tiny_prior):
        invdiff("priors", "convert", tiny_prior, "--out", "mine.safetensors")
        before = contents(folder)
        arguments = ("train", "photos", "--out", "mine.safetensors", *TRAIN, "--overwrite")
        assert "is not a prior of `invdiff train`" in invdiff(*arguments, code=1).stderr
        assert contents(folder) == before

    @pytest.mark.parametrize("how", ["same", "link"])
    def test_over_the_prior_it_starts_from(self, invdiff, folder, how):
        invdiff("train", "photos", "--out", "mine.safetensors", *TRAIN)
        (folder / "link.safetensors").symlink_to("mine.safetensors")
        before = contents(folder)
        given = "mine.safetensors" if how == "same" else "link.safetensors"
        arguments = ("train", "photos", "--out", "mine.safetensors", "--init", given, *TRAIN, "--overwrite")
        assert "is read by this run" in invdiff(*arguments, code=1).stderr
        assert contents(folder) == before

    def test_a_card_that_was_edited(self, invdiff, folder):
        invdiff("train", "photos", "--out", "mine.safetensors", *TRAIN)
        invdiff("train", "photos", "--out", "mine.safetensors", *TRAIN, "--overwrite")
        with (folder / "mine.md").open("a") as file:
            file.write("It likes blue.\n")
        assert (
            "mine.md exists and is not an unchanged card"
            in invdiff("train", "photos", "--out", "mine.safetensors", *TRAIN, "--overwrite", code=1).stderr
        )

    def test_among_the_images(self, invdiff, photos):
        """Its own sample grids are no photographs: it can be continued, and another one has the same images."""
        arguments = ("train", "photos", "--out", "photos/mine.safetensors", *TRAIN)
        assert invdiff(*arguments).stdout.startswith("5 images")
        assert is_figure(photos / "mine-samples" / "step-0000001.png")
        assert invdiff(*arguments, "--steps", 2).stdout.startswith("5 images")
        assert invdiff("train", "photos", "--out", "photos/other.safetensors", *TRAIN).stdout.startswith("5 images")

    def test_hidden_folders_hold_no_photographs(self, invdiff, photos):
        (photos / ".x.invdiff-part").mkdir()
        write_image(photos / ".x.invdiff-part" / "1.png", np.zeros((3, 24, 24)))
        assert invdiff("train", "photos", "--out", "mine.safetensors", *TRAIN).stdout.startswith("5 images")

    def test_the_list_of_skipped_files_is_its_own(self, invdiff, folder):
        for number in range(22):
            (folder / "photos" / f"{number}.jpg").write_bytes(b"no picture")
        for _ in range(2):
            invdiff("train", "photos", "--out", "mine.safetensors", *TRAIN)
        assert (folder / "mine-skipped.txt").read_text().count("\n") == 23


class TestPriors:
    def test_convert_over_its_input(self, invdiff, folder, tiny_prior):
        (folder / "a.safetensors").write_bytes(tiny_prior.read_bytes())
        (folder / "b.safetensors").symlink_to("a.safetensors")
        before = contents(folder)
        for out in ("a.safetensors", "./a.safetensors", "b.safetensors"):
            arguments = ("priors", "convert", "a.safetensors", "--out", out, "--overwrite")
            assert "is read by this run" in invdiff(*arguments, code=1).stderr
        assert contents(folder) == before

    @pytest.mark.parametrize("content", [None, b"my notes", b""])
    def test_convert_over_something_else(self, invdiff, folder, tiny_prior, content):
        (folder / "b.safetensors").write_bytes(tiny_prior.read_bytes() if content is None else content)
        before = contents(folder)
        arguments = ("priors", "convert", tiny_prior, "--out", "b.safetensors", "--overwrite")
        assert "is not a prior of `invdiff priors convert`" in invdiff(*arguments, code=1).stderr
        assert contents(folder) == before

    def test_convert_over_its_own(self, invdiff, folder, tiny_prior):
        for dtype in ("float32", "float16"):
            invdiff("priors", "convert", tiny_prior, "--out", "b.safetensors", "--overwrite", "--dtype", dtype)
        assert "converted_from" in read_metadata(folder / "b.safetensors")["invdiff"]["facts"]

    def test_measure_over_something_else(self, invdiff, folder, tiny_prior):
        (folder / "a.safetensors").write_bytes(tiny_prior.read_bytes())
        (folder / "b.safetensors").write_bytes(tiny_prior.read_bytes())
        before = contents(folder)
        few = ("photos", "--crops", 2, "--size", 16)
        for out, words in (("a.safetensors", "is read by this run"), ("b.safetensors", "is not a measured error")):
            assert words in invdiff("priors", "measure", "a.safetensors", *few, "--out", out, code=1).stderr
        assert contents(folder) == before
        for _ in range(2):
            invdiff("priors", "measure", "a.safetensors", *few, "--out", "c.safetensors")


def test_same_file(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.link(tmp_path / "a", tmp_path / "hard")
    assert all(same_file(tmp_path / "a", tmp_path / name) for name in ("a", "link", "hard"))
    assert not same_file(tmp_path / "a", tmp_path / "b")
    assert same_file(tmp_path / "b", tmp_path / "x" / ".." / "b") or sys.platform == "win32"
    assert not same_file(tmp_path / "b", tmp_path / "c")


@pytest.mark.skipif(sys.platform == "win32", reason="has no umask")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_umask(invdiff, solve, folder, tiny_prior, mask):
    before = os.umask(mask)
    try:
        solve("in.png", *CT, "--angles", 4, "--simulate", "-o", "out", "--npz")
        invdiff("train", "photos", "--out", "mine.safetensors", *TRAIN)
        invdiff("priors", "convert", tiny_prior, "--out", "b.safetensors")
        invdiff("priors", "measure", "b.safetensors", "photos", "--crops", 2, "--size", 16)
        invdiff("evaluate", "--reference", "in.png", "--restored", "in.png", "--json", "f.json", "--csv", "f.csv")
    finally:
        os.umask(before)
    written = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "photos" and path.name != "in.png"]
    assert len(written) > 15
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in written} == {
        path.name: oct(0o666 & ~mask) for path in written
    }
    assert torch.load(folder / "mine.ckpt", weights_only=True)["step"] == 1
