"""``--log-file``, ``--quiet`` and ``--verbose``, and completion in a shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from PIL import Image

from invdiff.cli import main
from invdiff.cli.messages import LOGGER

GIVEN = ("in.png", "--problem", "inpaint", "--mask", "mask.png", "--steps", 1)
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} "


@pytest.fixture
def picture(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)).save(tmp_path / "in.png")
    Image.fromarray(np.uint8(255) * (rng.random((16, 24)) < 0.2)).save(tmp_path / "mask.png")


def completions(*words: str) -> list[str]:
    """Return what a shell is told for the last word, which is incomplete."""
    shell = ShellComplete(main, {}, "invdiff", "_INVDIFF_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.slow
class TestLog:
    def test_notes_settings_times_and_errors(self, solve, tmp_path, picture):
        said = solve(*GIVEN, "--log-file", "run.log", "-o", "out").stderr
        solve("none.png", *GIVEN[1:], "--log-file", "run.log", "-o", "out2", code=1)
        solve(*GIVEN, "--option", "x=1", "--log-file", "run.log", "-o", "out3", code=2)
        lines = (tmp_path / "run.log").read_text().splitlines()
        begun = [line for line in lines if re.match(STAMP, line)]
        assert "INFO solve: input=in.png, output=out, " in begun[0]
        assert ", problem=inpaint, mask=mask.png, " in begun[0]
        assert said.splitlines()[0] in begun[1]
        text = "\n".join(lines)
        assert re.search(rf"{STAMP}DEBUG .* sample \d+\.\d\d s, .* peak: process ", text)
        assert re.search(rf"{STAMP}ERROR FileNotFoundError: .*none\.png.*\nTraceback \(most recent call last\)", text)
        assert re.search(rf"{STAMP}ERROR --option x=1: ", text)
        assert "run.log" not in [Path(getattr(handler, "baseFilename", "")).name for handler in LOGGER.handlers]  # closed

    def test_what_is_no_log_is_not_touched(self, solve, tmp_path, picture):
        before = (tmp_path / "in.png").read_bytes()
        for name, message in (
            ("in.png", "is not a log of invdiff"),
            (".", "is a folder"),
            ("no/run.log", "there is no folder no"),
        ):
            assert message in solve(*GIVEN, "--log-file", name, "-o", "out", code=1).stderr
        assert (tmp_path / "in.png").read_bytes() == before
        assert not (tmp_path / "out").exists()

    def test_other_commands(self, invdiff, tmp_path, picture):
        given = ("--problem", "denoise", "--noise", 0.1, "-o", "sim", "--log-file", "run.log")
        result = invdiff("simulate", "in.png", *given, "-q")
        assert (result.stdout, result.stderr) == ("", "")
        assert "INFO simulate: clean=in.png, output=sim, problem=denoise" in (tmp_path / "run.log").read_text()


@pytest.mark.slow
class TestLoudness:
    def test_quiet(self, solve, picture):
        result = solve(*GIVEN, "-q", "-o", "out")
        assert (result.stdout, result.stderr) == ("", "")
        assert json.loads(solve(*GIVEN, "-q", "--json", "-o", "out2").stdout)["output"] == "out2"
        assert solve("none.png", *GIVEN[1:], "-q", code=1).stderr.startswith("Error: none.png: no such file")
        several = solve("in.png", "none.png", *GIVEN[1:], "-q", "-o", "all", code=1)
        assert several.stdout == ""
        assert len(several.stderr.splitlines()) == 1

    def test_a_quiet_folder(self, solve, tmp_path, picture):
        (tmp_path / "album").mkdir()
        (tmp_path / "in.png").rename(tmp_path / "album" / "in.png")
        result = solve("album", *GIVEN[1:], "-q", "-o", "out")
        assert (result.stdout, result.stderr) == ("", "")

    def test_verbose(self, solve, picture):
        plain, more = (solve(*GIVEN, *words, "-o", f"out{len(words)}").stderr for words in ((), ("-v",)))
        added = [line for line in more.splitlines() if line not in plain.splitlines()]
        for what in ("device cpu, ", "method ", " samples at a time; ", "evaluations and ", " files written to out1"):
            assert [line for line in added if what in line], what
        assert Path("out0", "run.json").read_bytes() == Path("out1", "run.json").read_bytes()

    def test_no_colors(self, solve, picture, tiny_prior):
        few = ["--prior", str(tiny_prior), "--precision", "float32", "--samples", "2", "-v", "-o", "out"]
        for words in (["solve", *map(str, GIVEN), *few], ["--help"], ["solve", "--help"], ["solve", "--problem", "none"]):
            assert "\x1b" not in CliRunner().invoke(main, words, color=True).output


class TestCompletion:
    def test_commands_and_problems(self):
        assert completions("s") == ["solve", "submit", "simulate"]
        assert completions("solve", "--problem", "den") == ["denoise"]
        assert "compressed-sensing" in completions("simulate", "--problem", "c")
        assert completions("solve", "--method", "dps-") == ["dps-gaussian"]

    def test_options_of_the_chosen_problem(self):
        assert completions("solve", "in.png", "--problem", "sr", "--fac") == ["--factor"]
        assert completions("solve", "--problem=inpaint", "--mask-k") == ["--mask-keep"]
        assert completions("solve", "--fac") == []
        assert completions("solve", "--problem", "inpaint", "--mask-keep", "") == ["black", "white"]

    def test_code_is_not_run(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "mine.py").write_text("open('was-run', 'w')")
        assert completions("solve", "--problem", "mine.py:Mine", "--noi") == ["--noise"]
        assert not (tmp_path / "was-run").exists()

    def test_in_a_shell(self):
        code = "from invdiff.cli import main; main(prog_name='invdiff')"

        def ask(**variables):
            return subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **variables}
            ).stdout

        assert "complete -o nosort -F _invdiff_completion invdiff" in ask(_INVDIFF_COMPLETE="bash_source")
        words = {"COMP_WORDS": "invdiff solve --problem dequ", "COMP_CWORD": "3"}
        assert ask(_INVDIFF_COMPLETE="bash_complete", **words) == "plain,dequantize\n"
