"""Pieces of a person's own that are declared wrongly, or fail: one line that names the option, the piece, and what is wrong."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest
import torch

from invdiff.io.images import write_image
from invdiff.priors import ScoreModel
from invdiff.restoration.priors import _adopt

PROBLEM = """
from invdiff.operators import Identity
from invdiff.problems import Option, Problem

class Mine(Problem):
    options = {options}
    def __init__(self, {takes}):
        pass
    def operator(self, shape, *, noise=None):
        return Identity(shape, noise=noise)
"""
METHOD = """
from invdiff.methods import Correction

class Mine(Correction):
    needs = {needs}
    def correct(self, x_s, at, s, draw):
        return x_s
"""
OPERATOR = """
from invdiff.operators import Operator

class Mine(Operator):
    def __init__(self, in_shape):
        self.in_shape = self.out_shape = in_shape
    def forward(self, x):
        return {returned}

instance = Mine((3, 16, 24))

def other(shape):
    return Mine((1, 2, 3))

def fails(shape):
    raise KeyError("this")
"""
PRIOR = """
import torch
from invdiff.priors import Gaussian

def fails():
    return 1 / 0

def misshapen():
    prior = Gaussian.stationary(torch.zeros(3, 16, 24), torch.ones(3, 16, 13))
    prior.event_shape = ("a", 2)
    return prior
"""

DECLARED = [  # the options of a problem, and what the error says
    ('(Option(name="every", kind="integer", help="."),)', "kind must be one of FILE, INTEGER, NUMBER, TEXT"),
    ('(Option(name="every", kind=int, help="."),)', "kind must be one of"),
    ('(Option(name="every", kind=(), help="."),)', "kind must be one of"),
    ('(Option(name="every one", kind="NUMBER", help="."),)', "the name must be a Python name"),
    ('(Option(name="", kind="NUMBER", help="."),)', "the name must be a Python name"),
    (
        '(Option(name="every", kind="NUMBER", help=".", needed="maybe"),)',
        "needed must be one of no, yes, simulated, any, either",
    ),
    ('(Option(name="every", kind="NUMBER", help=".", minimum="a"),)', "minimum must be a number or None"),
    ('(Option(name="every", kind="INTEGER", help=".", default="x"),)', "the default is not a value of the option"),
    ('(Option(name="every", kind="INTEGER", help=".", minimum=2, default=1),)', "the default is not a value of the option"),
    ('(Option(name="every", kind="NUMBER", help=None),)', "help must be a string"),
    ('Option(name="every", kind="NUMBER", help=".")', "Mine: options must be a tuple of Option(...)"),
    ('("every",)', "Mine: options must be a tuple of Option(...)"),
    ("None", "Mine: options must be a tuple of Option(...)"),
    ('(Option(name="a", kind="NUMBER", help="."),) * 2', "Mine: two options have the name 'a'"),
]


@pytest.fixture
def run(solve, tmp_path):
    """``run(code, *arguments)`` solves with a file ``mine.py`` and returns the line of the error."""
    write_image(tmp_path / "in.png", np.random.default_rng(0).uniform(-1, 1, (3, 16, 24)))

    def invoke(code, *arguments, exit_code=1):
        (tmp_path / "mine.py").write_text(textwrap.dedent(code))
        said = solve("in.png", *arguments, code=exit_code).stderr.splitlines()
        assert sum(line.startswith("Error: ") for line in said) == 1
        return said[-1]

    return invoke


class TestProblems:
    @pytest.mark.parametrize(("options", "message"), DECLARED)
    def test_options_declared_wrongly(self, run, options, message):
        said = run(PROBLEM.format(options=options, takes="**values"), "--problem", "mine.py:Mine", exit_code=2)
        assert message in said
        assert "mine.py" in said

    def test_a_constructor_that_does_not_take_the_options(self, run):
        options = '(Option(name="every", kind="NUMBER", help="."),)'
        said = run(PROBLEM.format(options=options, takes="each=1"), "--problem", "mine.py:Mine", "--every", 3)
        assert "problem mine: the constructor must take the given options (every) by name" in said


class TestMethods:
    @pytest.mark.parametrize(
        ("needs", "message"),
        [
            (
                '("liner",)',
                "Mine: needs has the unknown name 'liner', expected some of linear, svd, mask, ",
            ),
            ('"linear"', "Mine: needs must be a tuple of names"),
            ("None", "Mine: needs must be a tuple of names"),
        ],
    )
    def test_needs_declared_wrongly(self, run, needs, message):
        said = run(METHOD.format(needs=needs), "--problem", "sr", "--factor", 2, "--method", "mine.py:Mine", exit_code=2)
        assert message in said

    @pytest.mark.parametrize(
        ("method", "option", "message"),
        [
            ("dps", "zetta=1", "dps has no option 'zetta', expected one of zeta. Did you mean 'zeta'?"),
            ("dps", "zeta=x", "expected a number, such as zeta=1.0"),
            ("pigdm", "consistent=maybe", "expected true or false, such as consistent=False"),
            ("mmps", "max_iterations=1.5", "expected an integer"),
        ],
    )
    def test_options(self, run, method, option, message):
        said = run("", "--problem", "sr", "--factor", 2, "--method", method, "--option", option, exit_code=2)
        assert message in said

    def test_an_option_is_given_once(self, run):
        twice = ("--option", "zeta=1", "--option", "zeta=2")
        assert "zeta is given twice" in run("", "--problem", "sr", "--factor", 2, "--method", "dps", *twice, exit_code=2)

    def test_a_truth_is_an_option(self, solve, run, tmp_path):
        how = (
            "--problem",
            "sr",
            "--factor",
            2,
            "--noise",
            0.1,
            "--method",
            "pigdm",
            "--option",
            "consistent=true",
            "-o",
            "out",
        )
        solve("in.png", *how)


class TestOperators:
    @pytest.mark.parametrize(
        ("returned", "message"),
        [
            ("x[..., ::2]", "returns a measurement of shape (3, 16, 12), but its out_shape is (3, 16, 24)"),
            ("x[:1]", "the first axis of the returned tensor must be the batch"),
            ("x.sum()", "the first axis of the returned tensor must be the batch"),
            ("None", "must return a real floating-point tensor, got NoneType"),
            ("x.numpy()", "must return a real floating-point tensor, got ndarray"),
            ("x.long()", "must return a real floating-point tensor, got torch.int64"),
            ("x + float('nan')", "returns nan or infinity"),
            ("1 / 0", "failed on two images: ZeroDivisionError: division by zero"),
        ],
    )
    @pytest.mark.parametrize("simulate", [(), ("--simulate",)])
    def test_forward(self, run, returned, message, simulate):
        how = ("--problem", "operator", "--noise", 0.1, "--operator", "mine.py:Mine", *simulate)
        said = run(OPERATOR.format(returned=returned), *how)
        assert message in said
        assert "--operator" in said
        assert "Mine" in said

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("instance", "expected a class or function that takes the image shape (C, H, W), got Mine("),
            ("other", "expected an operator for images of shape (3, 16, 24), got one for (1, 2, 3)"),
            ("fails", "fails was called with the shape (3, 16, 24) and raised KeyError: 'this'"),
        ],
    )
    def test_what_is_no_operator_of_the_picture(self, run, name, message):
        how = ("--problem", "operator", "--noise", 0.1, "--operator", f"mine.py:{name}")
        assert message in run(OPERATOR.format(returned="x"), *how)


class TestPriors:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("fails", "prior fails: it was called without arguments and raised ZeroDivisionError: division by zero"),
            ("misshapen", "prior misshapen: event_shape must be None or a tuple (C, H, W)"),
        ],
    )
    def test_what_is_no_prior(self, run, name, message):
        assert message in run(PRIOR, "--problem", "denoise", "--noise", 0.1, "--prior", f"mine.py:{name}")


def test_a_prior_without_a_schedule_is_named() -> None:
    class Mine(ScoreModel):
        def denoise(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return x_t

    with pytest.raises(TypeError, match=r"^prior mine\.py:Mine: Mine has no schedule\. Set self\.schedule in __init__"):
        _adopt("mine.py:Mine", Mine())
