"""``invdiff solve`` with several INPUTs: each has its own results, and one that fails does not stop the rest."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from invdiff.io.images import write_image
from invdiff.restoration import job, priors

DENOISE = ("--problem", "denoise", "--noise", 0.1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png"):
        write_image(tmp_path / name, draw.uniform(-1, 1, (3, 16, 16)))
    (tmp_path / "other").mkdir()
    write_image(tmp_path / "other" / "a.png", draw.uniform(-1, 1, (3, 16, 16)))
    (tmp_path / "broken.png").write_bytes(b"nothing")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_each_has_a_folder_with_what_it_has_alone(solve, folder):
    said = solve("a.png", "b.png", *DENOISE, "-o", "out")
    assert names(folder / "out") == ["a", "b"]
    assert said.stdout.startswith("a.png\nmethod ")
    assert "\nb.png\nmethod " in said.stdout
    solve("b.png", *DENOISE, "-o", "alone")
    for name in names(folder / "alone"):
        if name != "run.json":
            assert (folder / "alone" / name).read_bytes() == (folder / "out" / "b" / name).read_bytes()
    assert json.loads((folder / "out" / "b" / "run.json").read_text())["arguments"]["input"] == "b.png"


def test_without_a_folder_each_has_its_default(solve, folder):
    solve("a.png", "other/a.png", "b.png", *DENOISE)
    assert names(folder / "invdiff-out") == ["a-denoise", "a-denoise-2", "b-denoise"]
    solve("a.png", "b.png", *DENOISE, "--overwrite")
    assert names(folder / "invdiff-out") == ["a-denoise", "a-denoise-2", "b-denoise"]


def test_one_that_fails_is_named_and_the_rest_is_done(solve, folder):
    said = solve("a.png", "broken.png", "nothing.png", "b.png", *DENOISE, "-o", "out", code=1)
    assert names(folder / "out") == ["a", "b"]
    assert "broken.png (2 of 4)\nfailed: broken.png: is damaged or not an image" in said.stderr
    assert "Error: 2 of 4 INPUTs failed. broken.png: is damaged" in said.stderr
    assert "nothing.png: no such file" in said.stderr


def test_the_prior_is_loaded_once(solve, folder, monkeypatch):
    loaded = []
    find = priors.find_prior

    def counted(*arguments, **options):
        loaded.append(arguments)
        return find(*arguments, **options)

    monkeypatch.setattr(priors, "find_prior", counted)
    monkeypatch.setattr(job, "find_prior", counted)
    solve("a.png", "b.png", "c.png", *DENOISE, "-o", "out")
    assert len(loaded) == 1


def test_mask_and_options_are_those_of_all(solve, folder):
    mask = np.zeros((16, 16), np.uint8)
    mask[4:8, 4:8] = 255
    Image.fromarray(mask).save("mask.png")
    said = solve("a.png", "b.png", "--problem", "inpaint", "--mask", "mask.png", "-o", "out")
    assert said.stderr.count("filling 6.2% of the pixels") == 2


def test_json_is_a_list(solve, folder):
    said = solve("a.png", "broken.png", "b.png", *DENOISE, "-o", "out", "--json", code=1)
    assert [record["output"] for record in json.loads(said.stdout)] == ["out/a", "out/b"]


def test_wrong_usage_ends_at_once(solve, folder):
    said = solve("a.png", "b.png", "--problem", "sr", "-o", "out", code=2)
    assert "--problem sr needs --factor" in said.stderr
    assert "b.png" not in said.stderr
    assert not (folder / "out").exists()


@pytest.mark.parametrize("more", [("-o", "out"), ("--overwrite",)])
def test_results_never_share_a_folder(solve, folder, more):
    said = solve("a.png", "other/a.png", *DENOISE, *more, code=2)
    assert "a.png and other/a.png would have the same folder for their results, a." in said.stderr
    assert not (folder / "out").exists()


def test_an_input_among_the_results_of_another_is_kept(solve, folder):
    solve("a.png", *DENOISE, "-o", "out/a")
    before = (folder / "out" / "a" / "best.png").read_bytes()
    said = solve("a.png", "out/a/best.png", *DENOISE, "-o", "out", "--overwrite", "--seed", 1, code=1)
    assert "out/a/best.png is read by this run and would be replaced or removed" in said.stderr
    assert (folder / "out" / "a" / "best.png").read_bytes() == before
    assert names(folder / "out") == ["a", "best"]


def test_a_folder_among_them_is_refused(solve, folder):
    said = solve("other", "b.png", *DENOISE, "-o", "out", code=2)
    assert "other is a folder: expected one folder as INPUT, or pictures." in said.stderr
    assert not (folder / "out").exists()
