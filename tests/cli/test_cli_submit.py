"""``invdiff submit``: the shares of a folder as jobs, here of the local executor of submitit."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from invdiff.cli.submit import SolveShare
from invdiff.io.images import write_image

pytest.importorskip("submitit", reason="needs submitit: pip install 'invdiff[slurm]'")


@pytest.fixture
def album(tmp_path, invdiff):
    (tmp_path / "album").mkdir()
    for number in range(3):
        write_image(tmp_path / "album" / f"{number}.png", np.random.default_rng(number).uniform(-1, 1, (3, 12, 16)))
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="submitit needs fork")
def test_jobs_do_everything(invdiff, album, tiny_prior):
    few = ("--prior", tiny_prior, "--precision", "float32", "--steps", 2, "--samples", 1, "--keep", "mean")
    arguments = ("album", "--problem", "denoise", "--noise", 0.1, "-o", "out", *few)
    out = invdiff("submit", "--jobs", 2, "--cluster", "local", "--wait", "--", *arguments).stdout
    assert "2 jobs:" in out
    assert sorted(path.parent.name for path in (album / "out").rglob("run.json")) == ["0", "1", "2"]
    lines = (album / "out" / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["state"] for line in lines[1:]] == ["done"] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected one folder after --"),
        (("album/0.png", "--problem", "denoise", "-o", "out"), "expected one folder after --"),
        (("album", "--problem", "denoise"), "-o is missing"),
        (("album", "--problem", "sr", "--factor", "0.5", "-o", "out"), "--factor"),
        (("album", "--problem", "denoise", "-o", "out", "--shard", "0/2"), "--shard is set for each job"),
    ],
)
def test_arguments_are_checked_before(invdiff, album, arguments, message):
    problem = () if "--problem" in arguments else ("--problem", "denoise")
    ended = invdiff("submit", "--jobs", 2, "--cluster", "local", "--", *arguments, *problem, code=2)
    assert message in ended.stderr
    assert [path.name for path in album.iterdir()] == ["album"]


def test_options_of_slurm(invdiff, album):
    at = ("--", "album", "--problem", "denoise", "-o", "out")
    assert "expected NAME=VALUE" in invdiff("submit", "--jobs", 2, "--slurm", "account", *at, code=2).stderr


def test_without_slurm(invdiff, album, monkeypatch):
    monkeypatch.setenv("PATH", "")
    ended = invdiff("submit", "--jobs", 2, "--", "album", "--problem", "denoise", "-o", "out", code=1)
    assert "the jobs could not be submitted" in ended.stderr


def test_a_stopped_job_is_queued_again():
    share = SolveShare(["album"], 4)
    again = share.checkpoint(3)
    assert again.function is share
    assert again.args == (3,)
