"""Results of the tiny prior, made once, and copies of them to take things away from."""

from __future__ import annotations

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from report_pages import HEIGHT, HOSTILE, WIDTH

from invdiff.cli import main


@pytest.fixture(scope="session")
def made(tmp_path_factory, tiny_prior):
    """A folder with INPUTs and results: ``painted``, of a mask, three samples and intervals; ``gray``, simulated, two samples;
    ``one``, a single sample."""
    place, before = tmp_path_factory.mktemp("report"), os.getcwd()  # noqa: PTH109
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    ramp = (120 + 60 * np.sin(columns / 7)[..., None] + 20 * np.cos(rows / 5)[..., None] * np.array([1, -1, 0.5])).astype(
        np.uint8
    )
    Image.fromarray(ramp).save(place / "photo.png")
    Image.fromarray((ramp[..., 0] + rng.integers(0, 9, ramp.shape[:2])).astype(np.uint8)).save(place / "gray.png")
    hole = np.zeros((HEIGHT, WIDTH), np.uint8)
    hole[6:14, 10:20] = 255
    Image.fromarray(hole).save(place / "mask.png")
    few = ("--prior", tiny_prior, "--precision", "float32", "--steps", 2)
    runs = {
        "painted": ("photo.png", "--problem", "inpaint", "--mask", "mask.png", "--samples", 3, "--intervals", 90),
        "gray": ("gray.png", "--problem", "denoise", "--noise", 0.1, "--simulate", "--samples", 2),
        "one": ("photo.png", "--problem", "inpaint", "--mask", "mask.png", "--samples", 1),
    }
    os.chdir(place)
    try:
        for name, arguments in runs.items():
            done = CliRunner().invoke(main, ["solve", *map(str, (*arguments, *few)), "-o", name])
            assert done.exit_code == 0, done.output
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def results(made, tmp_path, monkeypatch):
    """A fresh copy of the results in the current folder, with ways to report, and to take files away as ``--keep`` does."""
    place = tmp_path / "work"
    shutil.copytree(made, place)
    monkeypatch.chdir(place)

    def report(*arguments, code=0):
        done = CliRunner().invoke(main, ["report", *map(str, arguments)])
        assert done.exit_code == code, (done.output, done.exception)
        assert "Traceback" not in done.output
        return done

    def keep(name, *kept):
        record = json.loads((place / name / "run.json").read_text())
        for file in [file for file in record["outputs"] if not file.startswith(kept)]:
            (place / name / file).unlink()
            del record["outputs"][file]
        (place / name / "run.json").write_text(json.dumps(record))

    return SimpleNamespace(place=place, report=report, keep=keep)


@pytest.fixture
def study(results):
    """A study of four results, one of which has a hostile name and one a damaged picture, and of an INPUT that failed."""
    folder = results.place / "study"
    entries = {"sub/photo.png": "painted", "gray.png": "gray", HOSTILE: "one", "damaged.png": "painted"}
    lines = [{"name": "photo.png", "state": "failed", "error": "replaced by a later line"}]
    for name, of in entries.items():
        place = name.removesuffix(".png") if name != HOSTILE else "hostile"
        shutil.copytree(results.place / of, folder / place)
        lines.append({"name": name, "folder": place, "state": "done"})
    lines += [{"name": "photo.png", "state": "failed", "error": f"{results.place}/photo.png: it is empty."}]
    (folder / "damaged" / "sample-2.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"name": "torn')
    return folder
