"""The examples run as they stand, here at a small size."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from invdiff.io.images import read_image

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"
BENCHMARKS = EXAMPLES.parent / "benchmarks"
SMALL = {
    "photograph": ["--size", "32", "--steps", "2", "--samples", "2", "--out", "panel.png"],
    "own_operator": ["--size", "16", "--steps", "2", "--samples", "1"],
    "uncertainty": ["--size", "6", "--steps", "20", "--samples", "100", "--items", "100"],
}


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SMALL)


@pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")  # two steps
@pytest.mark.parametrize("name", SMALL)
def test_example(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](SMALL[name])
    printed = capsys.readouterr().out
    if name == "photograph":
        assert printed.startswith("handover: 2 samples in ")
        assert read_image(tmp_path / "panel.png").pixels.shape > (3, 32, 32)
    elif name == "own_operator":
        assert re.fullmatch(r"(\w+: PSNR of the mean -?[\d.]+ dB, misfit [\d.]+ \(1 is right\)\n){2}", printed)
    else:
        covered, nominal, spread = (float(figure) for figure in re.findall(r"([\d.]+)(?:%|, 1 is)", printed))
        assert abs(covered - nominal) < 5  # four standard errors of 600 correlated numbers
        assert abs(spread - 1) < 0.1


@pytest.mark.parametrize("name", sorted(path.name for path in BENCHMARKS.glob("*.py")))
def test_benchmarks_know_the_library_as_it_is(name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # where they find one another
    assert "main" in runpy.run_path(str(BENCHMARKS / name)) or not re.search("__main__", (BENCHMARKS / name).read_text())
