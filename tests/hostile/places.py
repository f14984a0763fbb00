"""Python files of a person's own whose problem, method, operator or prior is not what it should be."""

from __future__ import annotations

from numpy.random import Generator

__all__ = ["piece"]

OPERATOR = """
import torch
from invdiff.operators import LinearOperator, Operator
class Mine(Operator):
    def __init__(self, in_shape):
        self.in_shape = self.out_shape = in_shape
    def forward(self, x):
        return {forward}
Instance = Mine((3, 16, 24))
def Function(shape):
    return {returned}
def NoArguments():
    return Mine((3, 16, 24))
def Raises(shape):
    raise RuntimeError("line one\\nline two \\x1b[31m")
"""
FORWARDS = (
    "x",
    "x[..., ::2]",
    "x.sum()",
    "None",
    "x[:1]",
    "x.numpy()",
    "x + float('nan')",
    "1 / 0",
    "x.double()",
    "x.mean(0)",
    "x.long()",
)
RETURNS = ("Mine(shape)", "None", "Mine", "shape", "Mine((1, 2, 3))")

PROBLEM = """
import torch
from invdiff.operators import Identity, Mask
from invdiff.problems import Option, Problem
class Mine(Problem):
    {options}
    def __init__(self, {arguments}):
        pass
    def operator(self, shape, {keyword}):
        return {returned}
Instance = {instance}
class Abstract(Problem):
    pass
"""
OPTIONS = (
    "",
    'options = (Option(name="every", kind="INTEGER", help="."),)',
    'options = (Option(name="every", kind="integer", help="."),)',
    'options = (Option(name="every", kind=int, help="."),)',
    'options = Option(name="every", kind="INTEGER", help=".")',
    'options = ("every",)',
    "options = (Option,)",
    'options = (Option(name="every one", kind="INTEGER", help="."),)',
    'options = (Option(name="every", kind="INTEGER", default="x", help="."),)',
    'options = (Option(name="every", kind="NUMBER", minimum="a", help="."),)',
    'options = (Option(name="every", kind="NUMBER", needed="maybe", help="."),)',
    'options = (Option(name="every", kind=(), help="."),)',
    'options = (Option(name="every", kind="NUMBER", help="."), Option(name="every", kind="NUMBER", help="."))',
    'options = (Option(name="", kind="NUMBER", help="."),)',
    "options = None",
    'options = (Option(name="every", kind="NUMBER"),)',
    'options = (Option(name="seed", kind="NUMBER", help="."),)',
)
MADE = ("Identity(shape, noise=noise)", "Identity(shape)", "None", "Identity", "Identity((1, 2, 3), noise=noise)", "shape")

METHOD = """
from invdiff.methods import Correction, Guidance, Method
class Mine(Correction):
    {body}
    def __init__(self, score, op, y, *, strength{default}):
        super().__init__(score, op, y)
        self.strength = strength
    def correct(self, x_s, at, s, draw):
        return {returned}
Instance = Mine
class Empty(Correction):
    pass
def Function(score, op, y):
    return None
"""
BODIES = (
    "any_noise = True",
    'needs = ("liner",)',
    'needs = "linear"',
    'needs = ("linear",)',
    "needs = None",
    "steps = 'x'",
    "rule = 'euler'",
)
STEPS = ("x_s", "None", "x_s * float('nan')", "x_s[:1]", "x_s.numpy()", "1 / 0", "x_s.double()")

PRIOR = """
import torch
from invdiff.priors import Gaussian, ScoreModel
def Mine():
    return {returned}
class Half(ScoreModel):
    event_shape = {shape}
def Argument(device):
    return None
"""
PRIORS = (
    "Gaussian.stationary(torch.zeros(3, 16, 24), torch.ones(3, 16, 13))",
    "Gaussian.stationary(torch.zeros(3, 8, 8), torch.ones(3, 8, 5))",
    "Gaussian.stationary(torch.zeros(3, 16, 24), -torch.ones(3, 16, 13))",
    "None",
    "torch.nn.Identity()",
    "Gaussian",
    "1 / 0",
)
BROKEN = ("def (", "import nothing_of_this_name", "raise SystemExit(3)", "1 / 0", "\0", "Mine = 3", "é = '\x1b[2J'")


def piece(rng: Generator) -> tuple[str, list[str], list[str]]:
    """Return the code of a file, the arguments that use it, and what an error may name."""
    what = str(rng.choice(["operator", "problem", "problem", "method", "prior"]))

    def one(choices: tuple[str, ...]) -> str:
        return str(rng.choice(choices))

    if what == "operator":
        code, flag = OPERATOR.format(forward=one(FORWARDS), returned=one(RETURNS)), "--operator"
        name = one(("Mine", "Mine", "Mine", "Instance", "Function", "Function", "NoArguments", "Raises", "Operator", "Mihn"))
        arguments = ["--problem", "operator", "--noise", "0.1", *(["--simulate"] if rng.random() < 0.4 else [])]
    elif what == "problem":
        keyword = one(("*, noise=None", "*, noise=None", "*, noise=None", "noise", "sigma=None"))
        instance = one(("Mine", "Mine()", "3", "Mine.name"))
        code = PROBLEM.format(
            options=one(OPTIONS),
            arguments=one(("**values", "every=None", "")),
            keyword=keyword,
            returned=one(MADE),
            instance=instance,
        )
        flag, name = "--problem", one(("Mine", "Mine", "Mine", "Mine", "Instance", "Abstract", "Problem", "Mien"))
        arguments = [["--every", "3"], ["--every", "x"], [], ["--evry", "3"], ["--help"]][
            int(rng.choice(5, p=[0.4, 0.1, 0.3, 0.1, 0.1]))
        ]
    elif what == "method":
        code = METHOD.format(body=one(BODIES), default=one((": float = 0.5", "=None", "", ": int = 3")), returned=one(STEPS))
        flag, name = "--method", one(("Mine", "Mine", "Mine", "Empty", "Function", "Correction", "Mein"))
        arguments = [
            "--problem",
            "sr",
            "--factor",
            "2",
            *[["--option", "strength=1"], [], ["--option", "strenght=1"]][int(rng.integers(3))],
        ]
    else:
        code = PRIOR.format(returned=one(PRIORS), shape=one(("(3, 16, 24)", "None", "()", "3", "('a', 2, 3)")))
        flag, name = "--prior", one(("Mine", "Mine", "Mine", "Half", "Argument", "ScoreModel", "Mnie"))
        arguments = ["--problem", "denoise", "--noise", "0.1"]
    if rng.random() < 0.1:
        code = one(BROKEN)
    flags = [argument for argument in arguments if argument.startswith("--")]
    return code, [*arguments, flag, f"mine.py:{name}"], [flag, name, name.lower(), what, *flags]
