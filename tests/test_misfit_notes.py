"""Misfits of restorations: notes in the record and on standard error, and warnings in Python."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from click.testing import CliRunner

import invdiff
from invdiff.cli.solve import solve as command
from invdiff.io.images import write_image
from invdiff.posterior import MisfitWarning

FEW = {"precision": "float32", "steps": 2, "samples": 2}


@pytest.fixture
def prior(tmp_path, monkeypatch, tiny_prior):
    monkeypatch.chdir(tmp_path)
    write_image("in.png", np.random.default_rng(0).uniform(-1, 1, (3, 16, 24)))
    return str(tiny_prior)


def test_python_warns(prior):
    with pytest.warns(MisfitWarning, match="a noise level that is too low") as caught:
        result = invdiff.restore("in.png", problem="deblur", kernel="gaussian:1", noise=0.01, prior=prior, **FEW)
    assert caught[0].filename == __file__
    assert result.notes[-1] == str(caught[0].message)


def test_the_command_line_prints_the_note_once_and_records_it(prior, tmp_path):
    words = ["in.png", "--problem", "deblur", "--kernel", "gaussian:1", "--noise", "0.01", "--prior", prior, "-o", "out"]
    words += [str(word) for name, value in FEW.items() for word in (f"--{name}", value)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = CliRunner().invoke(command, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stderr.count("misfit: the squared misfit of the samples is ") == 1
    assert json.loads((tmp_path / "out" / "run.json").read_text())["notes"][-1] in result.stderr


@pytest.mark.parametrize("problem", [{"problem": "declip", "clip_high": 0.6}, {"problem": "outpaint", "margin": 2}])
def test_results_in_which_exact_data_are_put_in_explain_them(prior, problem):
    result = invdiff.restore("in.png", **problem, simulate=True, prior=prior, **FEW)
    assert not any(note.startswith("misfit") for note in result.notes)
