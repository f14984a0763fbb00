"""The command as a whole: help without torch, names that match the registries, lists, and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from invdiff.cli import COMMANDS
from invdiff.cli.methods import options_of
from invdiff.cli.solve import solve
from invdiff.methods import METHODS, RULES
from invdiff.posterior import QUALITIES
from invdiff.problems import PROBLEMS
from invdiff.restoration.job import TAKEN


@pytest.mark.parametrize("arguments", [["--help"], ["solve", "--help"], ["--version"]], ids=" ".join)
def test_help_does_not_import_torch(arguments):
    script = (
        "import sys; from invdiff.cli import main; main(sys.argv[1:], standalone_mode=False); "
        "print([name for name in ('torch', 'numpy', 'scipy', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stderr == ""


def test_what_is_written_out_is_that_of_the_library():
    types = {param.name: param.type for param in solve.params}
    assert isinstance(types["rule"], click.Choice)
    assert set(types["rule"].choices) == set(RULES)
    assert isinstance(types["quality"], click.Choice)
    assert types["quality"].choices == QUALITIES


@pytest.mark.parametrize("problem", PROBLEMS)
class TestOptionsOfAProblem:
    """Every option that a problem declares is in its help, is accepted, and reaches the problem."""

    def test_help(self, invdiff, problem):
        for command in ("solve", "calibrate"):
            text = invdiff(command, "--problem", problem, "--help").stdout
            section = text.partition("\nProblem:\n")[2].partition("\nNoise:\n")[0]
            for option in PROBLEMS[problem].options:
                assert f"  {option.flag} " in section
                assert len(option.help) > 10

    def test_they_reach_it(self, problem, monkeypatch, tmp_path, invdiff):
        monkeypatch.setattr("invdiff.restoration.job.prepare", lambda source, settings, **_: seen.update(settings) or 1 / 0)
        seen, cls = {}, PROBLEMS[problem]
        given = {option: value_for(option) for option in cls.options}
        words = [word for option, value in given.items() for word in (option.flag, value)]
        invdiff("solve", "--problem", problem, *words, code=1)
        for option, value in given.items():
            wanted = Path(str(value)) if option.kind == "FILE" else value
            assert seen[option.name] == wanted
            assert option.convert(value) == wanted

    def test_those_of_others_are_refused(self, invdiff, problem):
        own = {option.name for option in PROBLEMS[problem].options}
        owners = {}
        for name, cls in PROBLEMS.items():
            for option in cls.options:
                owners.setdefault(option.flag, []).append(name)
        flags = [flag for flag in owners if flag.removeprefix("--").replace("-", "_") not in own]
        for flag in flags:
            message = invdiff("solve", "--problem", problem, flag, "1", code=2).stderr
            assert f"{flag} belongs to --problem {', '.join(owners[flag])}, not to {problem}." in message

    def test_names(self, problem):
        cls = PROBLEMS[problem]
        assert cls.name == problem
        assert not {option.name for option in cls.options} & set(TAKEN)
        names = [option.name for option in cls.options]
        assert len(names) == len(set(names))
        for option in cls.options:
            assert option.default is None or option.convert(option.default) == option.default


def value_for(option):
    if isinstance(option.kind, tuple):
        return option.kind[-1]
    if option.kind in ("FILE", "TEXT"):
        return "a-file.png"
    low, high = option.minimum or 0, option.maximum or (option.minimum or 0) + 7
    return (low + high) // 2 if option.kind == "INTEGER" else (low + high) / 2


def test_wrong_problem_options(invdiff):
    assert "Did you mean 'inpaint'?" in invdiff("solve", "--problem", "inpain", code=2).stderr
    said = invdiff("solve", "--problem", "inpaint", "--maks", "x", code=2).stderr
    assert "Did you mean" in said
    assert "--mask" in said
    missing = invdiff("solve", "--mask", "x", code=2).stderr
    assert "--problem is missing" in missing
    assert "\n  inpaint " in missing


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples(invdiff, name):
    text = invdiff(name, "--help").stdout
    assert "Examples:" in text
    assert f"  invdiff {name} " in text
    assert text.splitlines()[0].startswith(f"Usage: main {name} ")


def test_group_lists_the_commands(invdiff):
    text = invdiff("--help").stdout
    assert all(f"  {name} " in text for name in COMMANDS)
    assert "--problem" in text  # solve cannot do without


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"], ["solve", "--nonsense"], ["solve", "a", "b"]])
def test_wrong_usage(invdiff, arguments):
    result = invdiff(*arguments, code=2)
    assert result.stdout == ""
    assert "Error: " in result.stderr


class TestLists:
    def test_problems(self, invdiff):
        rows = json.loads(invdiff("problems", "--json").stdout)
        assert [row["name"] for row in rows] == list(PROBLEMS)
        assert rows[0] == {
            "name": "inpaint",
            "summary": PROBLEMS.summary("inpaint"),
            "needs": ["--mask"],
            "to simulate": [],
            "operator": "Mask",
        }
        (mri,) = (row for row in rows if row["name"] == "mri")
        assert (mri["needs"], mri["to simulate"]) == ([], ["--acceleration"])
        text = invdiff("problems").stdout
        assert all(row["summary"] in text and row["operator"] in text for row in rows)

    def test_methods(self, invdiff):
        rows = json.loads(invdiff("methods", "--json").stdout)
        assert [row["name"] for row in rows] == list(METHODS)
        assert all(row["summary"] and row["cost"] and row["paper"] and row["steps"] and row["rule"] for row in rows)
        assert {row["name"]: row["needs"] for row in rows}["pigdm"] == ["linear"]
        text = invdiff("methods").stdout
        assert "auto" in text
        assert all(f"{name}={value}" in text for method in METHODS.values() for name, value in options_of(method).items())

    def test_priors(self, invdiff):
        (natural,) = json.loads(invdiff("priors", "--json").stdout)
        assert (natural["name"], natural["channels"]) == ("natural", 3)
        assert natural["parameters"] > 1e6
        assert f"{natural['parameters']:,}" in invdiff("priors").stdout


def test_reader_that_has_gone_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run([sys.executable, "-m", "invdiff", "problems"], stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"")
