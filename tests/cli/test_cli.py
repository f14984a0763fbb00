"""The command as a whole: help without torch, names that match the registries, lists, and exit codes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import pytest

from invdiff.cli import COMMANDS
from invdiff.cli.methods import options_of
from invdiff.cli.problem_options import NEEDS, OWNERS, PROBLEM_NAMES, SPARE
from invdiff.cli.solve import METHOD_NAMES
from invdiff.methods import METHODS, RULES
from invdiff.problems import PROBLEMS


@pytest.mark.parametrize("arguments", [["--help"], ["solve", "--help"], ["--version"]], ids=" ".join)
def test_help_does_not_import_torch(arguments):
    script = (
        "import sys; from invdiff.cli import main; main(sys.argv[1:], standalone_mode=False); "
        "print([name for name in ('torch', 'numpy', 'scipy', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stderr == ""


def test_names_written_out_are_those_of_the_registries():
    assert tuple(PROBLEMS) == PROBLEM_NAMES == tuple(NEEDS)
    assert ("auto", *METHODS) == METHOD_NAMES
    needed = {name: {option for text in problem.needs for option in text.split(" or ")} for name, problem in PROBLEMS.items()}
    owned = {
        name: {f"--{option.replace('_', '-')}" for option in OWNERS if OWNERS[option] == name and option not in SPARE}
        for name in PROBLEMS
    }
    assert needed == owned | {"denoise": {"--noise"}}
    rule = next(param for param in importlib.import_module("invdiff.cli.solve").solve.params if param.name == "rule")
    assert set(rule.type.choices) == set(RULES)


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
        assert rows[0] == {"name": "inpaint", "summary": PROBLEMS["inpaint"].summary, "needs": ["--mask"], "operator": "Mask"}
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
