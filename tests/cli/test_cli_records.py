"""Records of runs: equal for equal runs, and without the places of a machine."""

from __future__ import annotations

import getpass
import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import invdiff as package
from invdiff.cli import main
from invdiff.io.portable import portable, without_places
from invdiff.restoration import job

CODE = """
from invdiff.methods.guidance import DPS
class Mine(DPS):
    pass
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder, beside one with the files of a run."""
    files = tmp_path / "private" / "files"
    files.mkdir(parents=True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)).save(files / "in.png")
    mask = np.zeros((16, 24), dtype=np.uint8)
    mask[5:9, 8:15] = 255
    Image.fromarray(mask).save(files / "mask.png")
    np.savez(files / "kernels.npz", box=np.ones((3, 3)))
    here = tmp_path / "private" / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return files


def places(folder, tiny_prior) -> list[str]:
    """Return what must not be in a record."""
    found = [*map(str, folder.parents), str(tiny_prior.parent), str(Path.home()), socket.gethostname()]
    # The names of the user and of the host may be words, such as "root", so that they are looked for as parts of a path.
    return [*[text for text in found if len(Path(text).parts) > 1], "private", f"/{getpass.getuser()}"]


class TestPortable:
    def test_paths(self, folder):
        here = Path.cwd()
        assert portable(here / "a" / "b.png") == "a/b.png"
        assert portable(here / "a" / ".." / "b.png") == "b.png"
        assert portable(Path("a", "b.png")) == "a/b.png"
        assert portable(folder / "b.png") == portable(Path("..", "files", "b.png")) == portable("../files/b.png") == "b.png"
        assert portable(f"{folder}/mine.py:Name") == "mine.py:Name"
        assert portable(f"{here}/a/mine.py:Name") == "a/mine.py:Name"
        for text in ("gaussian:2", "google/ddpm-cat-256", "natural", "", "mine.py:Name", "./mask"):
            assert portable(text) == text

    def test_through_links(self, folder):
        (folder.parent / "link").symlink_to(Path.cwd())
        assert portable(folder.parent / "link" / "a.png") == "a.png"

    def test_texts(self, folder):
        files, here = [folder / "in.png", Path("..", "files", "mask.png")], Path.cwd()
        record = {
            "notes": [f"{folder}/in.png: dark", "../files/mask.png: gray", f"from {here}/a/b.png", f"{folder}: a folder"],
            "deep": {"list": (f"{Path.home()}/x.png and ../../files/y.png", 3)},
        }
        assert without_places(record, files) == {
            "notes": ["in.png: dark", "mask.png: gray", "from a/b.png", "files: a folder"],
            "deep": {"list": ["x.png and ../../files/y.png", 3]},
        }
        assert without_places(f"results{here}/a", files) == f"results{here}/a"  # no path begins there


@pytest.mark.slow
class TestWithoutPlaces:
    def test_solve(self, solve, folder, tiny_prior, monkeypatch):
        (folder / "mine.py").write_text(CODE)
        os.chdir(folder.parent / "here")
        given = {"mask": folder / "mask.png", "method": f"{folder}/mine.py:Mine", "option": "zeta=0.5"}
        words = [word for name, value in given.items() for word in (f"--{name}", value)]
        solve(folder / "in.png", "--problem", "inpaint", *words, "--noise", 0.1, "-o", folder.parent / "out")
        text = (folder.parent / "out" / "run.json").read_text()
        assert not [place for place in places(folder, tiny_prior) if place in text]
        record = json.loads(text)
        assert record["arguments"]["input"] == record["files"]["input"]["path"] == "in.png"
        assert record["arguments"]["method"] == "mine.py:Mine"
        assert record["arguments"]["prior"] == record["prior"]["name"] == tiny_prior.name

    def test_notes(self, solve, folder, tiny_prior):
        """A dark picture, and a kernel in an archive: notes that name the file."""
        Image.fromarray(np.zeros((16, 24), np.uint16) + np.arange(24, dtype=np.uint16)).save(folder / "dark.png")
        os.chdir(folder.parent / "here")
        kernel = f"{folder}/kernels.npz:box"
        said = solve(folder / "dark.png", "--problem", "deblur", "--kernel", kernel, "--noise", 0.1, "-o", "out").stderr
        text = Path("out", "run.json").read_text()
        assert not [place for place in places(folder, tiny_prior) if place in text]
        assert json.loads(text)["arguments"]["kernel"] == "kernels.npz:box"
        assert len(json.loads(text)["notes"]) == len(said.splitlines())

    def test_the_memory_that_is_left_is_in_no_record(self, solve, folder, monkeypatch):
        found = job.fit

        def short(sampler, *given, **settings):
            return replace(found(sampler, *given, **settings), advice=("memory: little is left",))

        monkeypatch.setattr("invdiff.restoration.job.fit", short)
        said = solve(folder / "in.png", "--problem", "denoise", "--noise", 0.1, "-o", "out").stderr
        assert "memory: little is left" in said
        assert "memory" not in Path("out", "run.json").read_text()

    def test_in_python(self, folder, tiny_prior):
        few = {"samples": 2, "steps": 1, "precision": "float32", "prior": str(tiny_prior), "noise": 0.1}
        os.chdir(folder.parent / "here")
        result = package.restore(str(folder / "in.png"), problem="inpaint", mask=str(folder / "mask.png"), **few)
        for name in "ab":
            result.save(name)
        assert result.record["timing"]["seconds"]["sample"] > 0
        texts = [Path(name, "run.json").read_text() for name in "ab"]
        assert texts[0] == texts[1]
        result.posterior.save("post.safetensors")
        assert not [place for place in places(folder, tiny_prior) if place in texts[0]]
        kept = json.dumps([result.posterior.notes, dict(result.posterior.origin), dict(result.posterior.options)], default=str)
        assert not [place for place in places(folder, tiny_prior) if place in kept]

    def test_calibrate(self, invdiff, folder, tiny_prior):
        for name in "ab":
            (folder / f"{name}.png").write_bytes((folder / "in.png").read_bytes())
        (folder / "mask.png").unlink()
        (folder / "broken.png").write_text("no picture")
        os.chdir(folder.parent / "here")
        few = ("--size", 16, "--cases", 10, "--samples", 2, "--steps", 1, "--precision", "float32", "--prior", tiny_prior)
        for name in "ab":
            invdiff("calibrate", folder, "--problem", "denoise", "--noise", 0.1, *few, "-o", folder.parent / name)
        texts = [(folder.parent / name / "calibration.json").read_text() for name in "ab"]
        assert texts[0] == texts[1]
        assert "broken.png" in texts[0]
        assert not [place for place in places(folder, tiny_prior) if place in texts[0]]


def contents(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir()}


@pytest.mark.slow
class TestRepeat:
    """``--config``: a run from its record."""

    @pytest.fixture
    def first(self, solve, folder):
        """The folder of a run whose files are above it, with code of the user."""
        (folder / "mine.py").write_text(CODE)
        os.chdir(folder)
        given = ("--mask", "mask.png", "--method", "mine.py:Mine", "--option", "zeta=0.5", "--noise", 0.1, "--seed", 3, "--npz")
        solve("in.png", "--problem", "inpaint", *given, "-o", "results/first")
        return folder / "results" / "first"

    def record(self, **changes) -> str:
        """Write a record to the current folder, and return its name."""
        record = {"command": "solve", "arguments": {"problem": "denoise", "noise": 0.1}, "files": {}, **changes}
        Path("record.json").write_text(json.dumps(record))
        return "record.json"

    def test_in_another_folder(self, invdiff, first, folder, tiny_prior):
        os.chdir(folder.parent / "here")
        said = invdiff("solve", "--config", first / "run.json", "--prior", tiny_prior, "-o", "again").stderr
        assert contents(Path("again")) == contents(first)
        assert "differ" not in said

    def test_files_beside_the_record(self, invdiff, first, folder, tiny_prior):
        here = folder.parent / "here"
        for path in (first / "run.json", *(folder / name for name in ("in.png", "mask.png", "mine.py")), tiny_prior):
            (here / path.name).write_bytes(path.read_bytes())
        os.chdir(folder.parent)
        invdiff("solve", "--config", "here/run.json", "-o", "again")
        assert contents(Path("again")) == contents(first)

    def test_a_picture_of_a_folder(self, invdiff, solve, folder, tiny_prior):
        os.chdir(folder.parent)
        (folder / "mask.png").rename(folder.parent / "mask.png")
        solve("files", "--problem", "inpaint", "--mask", "mask.png", "--keep", "mean,quantiles", "-o", "all")
        Path(tiny_prior.name).write_bytes(tiny_prior.read_bytes())
        invdiff("solve", "--config", "all/in/run.json", "-o", "again")
        text = Path("again", "run.json").read_text()
        before = json.loads(Path("all", "in", "run.json").read_text())
        assert json.loads(text) == before
        assert contents(Path("again")) == contents(Path("all", "in"))

    def test_what_is_given_wins(self, solve, first, folder):
        os.chdir(folder)
        solve("--config", "results/first/run.json", "--seed", 4, "--method", "dps", "-o", "a")
        old, new = (json.loads((place / "run.json").read_text()) for place in (first, Path("a")))
        changed = {name for name, value in new["arguments"].items() if value != old["arguments"][name]}
        assert changed == {"seed", "method"}
        solve(
            "--config",
            "results/first/run.json",
            "--problem",
            "denoise",
            "--method",
            "auto",
            "--option",
            "max_iterations=2",
            "-o",
            "b",
        )
        assert (
            json.loads(Path("b", "run.json").read_text())["arguments"].items() >= {"problem": "denoise", "noise": 0.1}.items()
        )

    @pytest.mark.parametrize(("name", "what"), [("in.png", "INPUT 'in.png'"), ("mask.png", "--mask 'mask.png'")])
    def test_files_that_are_missing_or_differ(self, solve, first, folder, name, what):
        os.chdir(folder)
        (folder / name).rename(folder.parent / "moved.png")
        missing = solve("--config", "results/first/run.json", "-o", "b", code=2).stderr.splitlines()[-1]
        assert f"{what} with the SHA-256 " in missing
        assert "is not found here, beside the record, or in the folders above it. Give " in missing
        Image.fromarray(np.full((16, 24), 255, np.uint8)).save(folder / name)
        assert f"differs from {name}. Give " in solve("--config", "results/first/run.json", "-o", "b", code=2).stderr
        assert not (folder / "b").exists()
        place = ("--mask", "../moved.png") if name == "mask.png" else ("../moved.png",)
        assert "differs from" not in solve("--config", "results/first/run.json", *place, "-o", "b").stderr
        (folder / name).unlink()
        Image.open(folder.parent / "moved.png").rotate(180).save(folder / "other.png")
        place = ("--mask", "other.png") if name == "mask.png" else ("other.png",)
        said = solve("--config", "results/first/run.json", *place, "-o", "c").stderr
        assert f"{what.split()[0]} other.png differs from {name} of run.json" in said

    def test_another_prior(self, invdiff, first, folder, tiny_prior):
        os.chdir(folder)
        changed = bytearray(tiny_prior.read_bytes())
        changed[-1] ^= 1
        Path(tiny_prior.name).write_bytes(changed)
        error = invdiff("solve", "--config", "results/first/run.json", code=2).stderr
        assert f"--prior '{tiny_prior.name}' with the SHA-256" in error
        said = invdiff("solve", "--config", "results/first/run.json", "--prior", tiny_prior.name, "-o", "b").stderr
        assert "prior: not as in run.json (sha256)" in said

    def test_other_versions(self, invdiff, first, folder, tiny_prior):
        os.chdir(folder)
        Path(tiny_prior.name).write_bytes(tiny_prior.read_bytes())
        text = (first / "run.json").read_text().replace(f'"torch": "{torch.__version__}"', '"torch": "0.1"')
        Path("old.json").write_text(text)
        said = invdiff("solve", "--config", "old.json", "-o", "b").stderr
        assert "old.json was made with torch 0.1 (here " in said
        assert "the results may differ in their last bits" in said
        assert "torch 0.1" not in Path("b", "run.json").read_text()

    def test_a_kernel_in_an_archive_and_a_word_as_a_name(self, solve, folder):
        os.chdir(folder)
        (folder / "mask.png").rename(folder / "auto")
        for number, given in enumerate(
            (("deblur", "--kernel", "kernels.npz:box", "--noise", 0.1), ("inpaint", "--mask", "./auto"))
        ):
            solve("in.png", "--problem", *given, "-o", f"a{number}")
            os.chdir(folder.parent / "here")
            solve("--config", folder / f"a{number}" / "run.json", "-o", f"b{number}")
            assert contents(Path(f"b{number}")) == contents(folder / f"a{number}")
            os.chdir(folder)

    @pytest.mark.parametrize("name", ["problem", "method", "prior", "operator"])
    def test_code_without_its_digest_is_not_run(self, solve, folder, name):
        os.chdir(folder)
        (folder / "evil.py").write_text("open('was-run', 'w')")
        arguments = {"problem": "operator" if name == "operator" else "denoise", "noise": 0.1, name: "evil.py:Evil"}
        here = () if name == "prior" else ("--prior", "natural")
        for files in ({}, {name: {"path": "evil.py", "sha256": "0" * 64}}, {name: {"path": "evil", "sha256": "0" * 64}}):
            given = self.record(arguments=arguments, files=files)
            error = CliRunner().invoke(main, ["solve", "in.png", "--config", given, *here])
            assert error.exit_code == 2, error.output
            assert "evil" in error.output
            assert not (folder / "was-run").exists()
        if name in ("problem", "method"):
            given = self.record(arguments={**arguments, name: "os:system"})
            assert "is Python code without a digest" in CliRunner().invoke(main, ["solve", "in.png", "--config", given]).output

    @pytest.mark.parametrize(
        ("content", "message"),
        [  # what is in the file, and the error
            (b"\x89PNG", "it is no JSON"),
            (b"[" * 100_000, "it is no JSON"),
            (b"[]", "it has no `arguments`"),
            (b'{"arguments": {}}', "its `command` is None"),
            (b'{"arguments": {}, "command": "calibrate"}', "its `command` is 'calibrate'"),
            (b'{"arguments": [], "command": "solve"}', "are no mapping from names"),
            (b'{"arguments": {"seed": {}}, "command": "solve"}', "seed is {}"),
            (b'{"arguments": {"prior": "\\u0000"}, "command": "solve"}', "prior has a null character"),
            (b'{"arguments": {}, "command": "solve", "files": {"mask": 3}}', "no record of `invdiff solve`"),
            (
                b'{"arguments": {}, "command": "solve", "files": {"mask": {"path": "a", "sha256": "0"}}}',
                "no path and digest for mask",
            ),
            (b'{"arguments": {"problem": "denoise", "cedes": 3}, "command": "solve"}', "has no setting 'cedes'"),
            (
                b'{"arguments": {"problem": "denoise", "output": "/x"}, "command": "solve"}',
                "has no setting 'output'",
            ),
            (b'{"arguments": {"problem": "denoise", "samples": "x"}, "command": "solve"}', "--samples"),
            (b'{"arguments": {"problem": "denoise", "input": "Tensor"}, "command": "solve"}', "INPUT was 'Tensor'"),
            (b'{"arguments": {}, "command": "solve"}', "--problem is missing"),
        ],
    )
    def test_no_record(self, invdiff, folder, content, message):
        Path("record.json").write_bytes(content)
        result = invdiff("solve", "--config", "record.json", code=2)
        (error,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
        assert message in error
        assert len(error) < 500

    def test_no_file(self, invdiff, folder):
        assert "nothing.json: No such file" in invdiff("solve", "--config", "nothing.json", code=1).stderr
        assert "is a folder" in invdiff("solve", "--config", ".", code=1).stderr
