"""Records of runs: equal for equal runs, and without the places of a machine."""

from __future__ import annotations

import getpass
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import invdiff as package
from invdiff.io.portable import portable, without_places

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

    def test_in_python(self, folder, tiny_prior):
        few = {"samples": 2, "steps": 1, "precision": "float32", "prior": str(tiny_prior), "noise": 0.1}
        os.chdir(folder.parent / "here")
        result = package.restore(str(folder / "in.png"), problem="inpaint", mask=str(folder / "mask.png"), **few)
        for name in "ab":
            result.save(name)
        assert result.record["timing"]["seconds"] > 0
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
