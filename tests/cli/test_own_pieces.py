"""Problems, methods, operators and priors of a person's own, each in one file, used by ``invdiff solve``."""

from __future__ import annotations

import json
import textwrap

import numpy as np
import pytest
import torch

from invdiff.io.images import read_image, write_image
from invdiff.problems import PROBLEMS
from invdiff.registry import Registry
from invdiff.restoration import priors as own_priors

HEIGHT, WIDTH = 16, 24

PROBLEM = '''
"""A grid of dead pixels, and a lens cap that leaves the left in the dark."""

import torch

from invdiff.operators import Mask
from invdiff.problems import Option, Problem


class DeadGrid(Problem):
    """Fill a grid of dead pixels."""

    options = (
        Option(name="every", kind="INTEGER", minimum=2, needed="yes", help="Distance of the dead pixels."),
        Option(name="cap", kind="NUMBER", minimum=0, maximum=1, default=0.25, help="Share of the picture in the dark."),
        Option(name="side", kind=("left", "right"), default="left", help="Where it is dark."),
    )

    def __init__(self, every, cap, side):
        self.every, self.cap, self.side = every, cap, side

    def operator(self, shape, *, noise=None):
        known = torch.ones(shape[1:], dtype=torch.bool)
        known[:: self.every, :: self.every] = False
        dark = int(self.cap * shape[2])
        known[:, slice(0, dark) if self.side == "left" else slice(shape[2] - dark, None)] = False
        return Mask(known, shape, noise=noise)
'''

METHOD = '''
from invdiff.methods import Correction


class Pull(Correction):
    """A step towards what was measured, after every unconditional step."""

    any_noise = True

    def __init__(self, score, op, y, *, strength: float = 0.5):
        super().__init__(score, op, y)
        self.strength = strength

    def correct(self, x_s, at, s, draw):
        return x_s + self.strength * self.op.adjoint(self.y - self.op(at.x0_hat))
'''

OPERATOR = """
from invdiff.operators import Operator

class Mirrored(Operator):
    def __init__(self, in_shape):
        self.in_shape = self.out_shape = in_shape
    def forward(self, x):
        return x.flip(-1)
"""

NETWORKS = """
import torch
from invdiff.priors import from_network
from invdiff.schedules import VP

net = torch.nn.Conv2d(3, 3, 3, padding=1)

def wrapped(function):
    return from_network(lambda x, t: function(x), VP(), event_shape=(3, None, None))

def without_gradient():
    return wrapped(torch.no_grad()(net))

def mixing():
    return wrapped(lambda x: net(x) - x.mean())

def noisy():
    return wrapped(lambda x: net(x) + torch.randn_like(x))

def untrained():
    return wrapped(lambda x: 3 * x)
"""

FUNCTION = """
from invdiff.operators import Function

def halves(in_shape):
    return Function(lambda x: (x[..., ::2] + x[..., 1::2]) / 2, in_shape)
"""

PRIOR = """
import torch

from invdiff.priors import Gaussian

def smooth():
    return Gaussian.stationary(torch.zeros(3, {h}, {w}), torch.ones(3, {h}, {w} // 2 + 1))
"""


@pytest.fixture
def mine(tmp_path):
    """A picture, and ``write("name", text)`` for a file of Python code beside it."""
    values = np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH))
    write_image(tmp_path / "in.png", values / 127.5 - 1)

    def write(name, text):
        (tmp_path / name).write_text(textwrap.dedent(text))

    return write


def record_of(folder):
    return json.loads((folder / "run.json").read_text())


class TestProblem:
    def test_solved(self, solve, tmp_path, mine):
        mine("dead.py", PROBLEM)
        how = ("--problem", "dead.py:DeadGrid", "--every", 4, "--side", "right")
        solve("in.png", *how, "-o", "out")
        given, result = (read_image(tmp_path / name).pixels for name in ("in.png", "out/mean.png"))
        known = np.ones((HEIGHT, WIDTH), dtype=bool)
        known[::4, ::4] = False
        known[:, WIDTH - WIDTH // 4 :] = False
        assert np.abs(result - given)[:, known].max() < np.abs(result - given)[:, ~known].max()
        record = record_of(tmp_path / "out")
        own = {name: record["arguments"][name] for name in ("every", "cap", "side")}
        assert own == {"every": 4, "cap": 0.25, "side": "right"}
        assert record["residual_expected"] == 0
        assert len(record["files"]["problem"]["sha256"]) == 64
        assert {"arguments", "method", "prior", "metrics"} <= record.keys()
        solve("in.png", *how, "--simulate", "--noise", 0.1)
        assert record_of(tmp_path / "invdiff-out" / "in-deadgrid")["residual_expected"] == 3 * known.sum()

    @pytest.mark.parametrize(("bits", "channels"), [(8, 1), (8, 3), (16, 1)])
    def test_its_pictures_are_written_beside_the_results(self, solve, tmp_path, mine, bits, channels):
        picture = f"Picture(np.linspace(-1, 1, {10 * channels}).reshape({channels}, 2, 5), bits={bits})"
        extras = f"    def extras(self):\n        return {{'grid': {picture}}}\n"
        imports = "import numpy as np\nfrom invdiff.io.images import Picture\n"
        mine("dead.py", imports + PROBLEM + "\n" + extras)
        solve("in.png", "--problem", "dead.py:DeadGrid", "--every", 4, "-o", "out")
        written = read_image(tmp_path / "out" / "grid.png")
        assert (written.bits, written.pixels.shape) == (bits, (channels, 2, 5))
        np.testing.assert_allclose(written.pixels.ravel(), np.linspace(-1, 1, 10 * channels), rtol=0, atol=1 / (2**bits - 1))
        assert "grid.png" in record_of(tmp_path / "out")["outputs"]
        mine("taken.py", imports + PROBLEM + "\n" + extras.replace("grid", "mean"))
        said = solve("in.png", "--problem", "taken.py:DeadGrid", "--every", 4, "-o", "again", code=1).stderr
        assert "extras() must not name the file mean.png" in said

    def test_help_and_errors_know_its_options(self, solve, mine):
        mine("dead.py", PROBLEM)
        text = solve("--problem", "dead.py:DeadGrid", "--help").stdout
        assert all(words in text for words in ("--every", "Distance of the dead pixels.", "--cap", "--side [left|right]"))
        given = ("in.png", "--problem", "dead.py:DeadGrid")
        assert "--problem deadgrid needs --every." in solve(*given, code=2).stderr
        assert "is not in the range" in solve(*given, "--every", 1, code=2).stderr
        assert "--factor belongs to --problem sr, not to deadgrid." in solve(*given, "--factor", 2, code=2).stderr

    def test_calibrated(self, invdiff, tiny_prior, tmp_path, mine):
        mine("dead.py", PROBLEM)
        (tmp_path / "folder").mkdir()
        for k in range(3):
            write_image(tmp_path / "folder" / f"{k}.png", np.random.default_rng(k).uniform(-1, 1, (3, 12, 12)))
        small = ("--size", 12, "--samples", 2, "--steps", 2, "--precision", "float32", "--prior", tiny_prior)
        invdiff("calibrate", "folder", "--problem", "dead.py:DeadGrid", "--every", 3, "--noise", 0.1, *small, "-o", "out")
        assert json.loads((tmp_path / "out" / "calibration.json").read_text())["cases"] == 3

    def test_what_is_no_problem(self, solve, mine):
        mine("dead.py", PROBLEM + "\nsomething = 1\n")
        for text, message in (
            ("dead.py:something", "something is not a problem: expected a subclass of invdiff.problems.Problem"),
            ("dead.py:Grid", "dead.py has no 'Grid', only torch, Mask, Option, Problem, DeadGrid"),
            ("none.py:DeadGrid", "there is no file none.py"),
        ):
            assert message in solve("in.png", "--problem", text, code=2).stderr

    def test_names_that_are_taken(self, solve, mine):
        mine("taken.py", PROBLEM.replace('"every"', '"steps"'))
        said = solve("in.png", "--problem", "taken.py:DeadGrid", code=2).stderr
        assert "--steps is the name of another option" in said

    def test_of_an_installed_package(self, solve, mine, tmp_path, monkeypatch):
        mine("dead_pixels.py", PROBLEM)
        monkeypatch.syspath_prepend(tmp_path)
        table = Registry("problem", PROBLEMS.lines, PROBLEMS.adopt, group="none")
        table.__dict__["places"] = {**table.places, "dead-grid": "dead_pixels:DeadGrid"}
        monkeypatch.setattr("invdiff.problems.PROBLEMS", table)
        monkeypatch.setattr("invdiff.cli.problem_options.PROBLEMS", table)
        monkeypatch.setattr("invdiff.restoration.checks.PROBLEMS", table)
        assert "dead-grid" in solve("--help").stdout
        solve("in.png", "--problem", "dead-grid", "--every", 4, "-o", "out")
        assert record_of(tmp_path / "out")["arguments"]["problem"] == "dead-grid"


class TestMethod:
    def test_solved(self, solve, tmp_path, mine):
        mine("pull.py", METHOD)
        how = ("in.png", "--problem", "sr", "--factor", 2, "--method", "pull.py:Pull", "--npz")
        solve(*how, "-o", "a")
        record = record_of(tmp_path / "a")
        assert record["method"] == "Pull"
        assert record["arguments"]["method"] == "pull.py:Pull"
        assert len(record["files"]["method"]["sha256"]) == 64
        solve(*how, "--option", "strength=0.25", "-o", "b")
        assert record_of(tmp_path / "b")["options"]["strength"] == 0.25
        assert (tmp_path / "a" / "sample-1.png").read_bytes() != (tmp_path / "b" / "sample-1.png").read_bytes()

    def test_what_is_no_method(self, solve, mine):
        mine("pull.py", "Pull = 3")
        assert "Pull" in solve("in.png", "--problem", "sr", "--factor", 2, "--method", "pull.py:Pull", code=2).stderr


class TestOperator:
    def test_solved(self, solve, tmp_path, mine):
        mine("mirrored.py", OPERATOR)
        solve("in.png", "--problem", "operator", "--operator", "mirrored.py:Mirrored", "--noise", 0.05, "-o", "out", "--npz")
        record = record_of(tmp_path / "out")
        assert record["residual_expected"] == 3 * HEIGHT * WIDTH
        assert len(record["files"]["operator"]["sha256"]) == 64
        solve("in.png", "--problem", "operator", "--operator", "mirrored.py:Mirrored", "--simulate", "-o", "simulated")
        measured, given = (read_image(tmp_path / name).pixels for name in ("simulated/measurement.png", "in.png"))
        np.testing.assert_array_equal(measured, given[..., ::-1])

    def test_a_function_that_changes_the_shape(self, solve, tmp_path, mine):
        mine("halves.py", FUNCTION)
        how = ("in.png", "--problem", "operator", "--operator", "halves.py:halves", "--noise", 0.05)
        solve(*how, "--simulate", "-o", "out")
        assert read_image(tmp_path / "out" / "measurement.png").pixels.shape == (3, HEIGHT, WIDTH // 2)
        assert read_image(tmp_path / "out" / "mean.png").pixels.shape == (3, HEIGHT, WIDTH)
        assert "the shape of the image is unknown" in solve(*how, code=1).stderr

    def test_what_is_no_picture(self, solve, tmp_path, mine):
        mine(
            "sums.py", "from invdiff.operators import Function\n\ndef sums(s):\n    return Function(lambda x: x.sum((1, 2)), s)"
        )
        how = ("in.png", "--problem", "operator", "--operator", "sums.py:sums", "--simulate", "--noise", 0.05, "--npz")
        solve(*how, "-o", "out")
        with np.load(tmp_path / "out" / "measurement.npz") as arrays:
            assert arrays["y"].shape == (WIDTH,)

    def test_what_is_no_operator(self, solve, mine):
        mine("nothing.py", "number = 3\n\ndef nothing(shape):\n    return shape")
        given = ("in.png", "--problem", "operator", "--operator")
        assert "expected a class or function" in solve(*given, "nothing.py:number", code=1).stderr
        assert "expected an operator for images of shape" in solve(*given, "nothing.py:nothing", code=1).stderr
        assert "needs --operator" in solve(*given[:-1], code=2).stderr


class TestPrior:
    def test_solved(self, solve, tmp_path, mine):
        mine("smooth.py", PRIOR.format(h=HEIGHT, w=WIDTH))
        solve("in.png", "--problem", "denoise", "--noise", 0.1, "--prior", "smooth.py:smooth", "-o", "out")
        record = record_of(tmp_path / "out")
        assert record["prior"]["prior"] == "Gaussian"
        assert len(record["files"]["prior"]["sha256"]) == 64

    def test_what_is_no_prior(self, solve, mine):
        mine("smooth.py", "def smooth():\n    return 3")
        given = ("in.png", "--problem", "denoise", "--noise", 0.1, "--prior")
        assert "smooth is not a prior: expected a ScoreModel" in solve(*given, "smooth.py:smooth", code=1).stderr

    def test_a_faulty_network_is_named_in_one_line(self, solve, tmp_path, mine):
        mine("nets.py", NETWORKS)
        given = ("in.png", "--problem", "denoise", "--noise", 0.1, "--prior")
        for name, message in (
            ("without_gradient", "mmps differentiates the network, and it has no gradient"),
            ("mixing", "from_network: the network mixes the items of a batch"),
            ("noisy", "from_network: the network is random"),
        ):
            error = solve(*given, f"nets.py:{name}", "--method", "mmps", code=1).stderr
            assert message in error
            assert error.strip().count("\n") == 0
        said = solve(*given, "nets.py:untrained", "-o", "out").stderr
        assert said.count("the network seems to be wired wrongly") == 1
        assert "UserWarning" not in said
        assert any("wired wrongly" in note for note in record_of(tmp_path / "out")["notes"])

    def test_a_faulty_operator_is_named_in_one_line(self, solve, mine):
        mine("rounds.py", OPERATOR.replace("x.flip(-1)", "(x * 20).round() / 20"))
        given = ("in.png", "--problem", "operator", "--operator", "rounds.py:Mirrored", "--noise", 0.05, "--simulate")
        error = solve(*given, code=1).stderr
        assert "Mirrored: the function has no gradient, or a wrong one" in error
        assert error.strip().count("\n") == 0

    def test_none_replaces_the_bundled_one(self, monkeypatch):
        table = Registry("prior", {}, own_priors.PRIORS.adopt, group="none")
        table.__dict__["places"] = {"natural": "nowhere:at_all"}
        monkeypatch.setattr(own_priors, "PRIORS", table)
        assert own_priors.find_prior("natural", device=torch.device("cpu")).describe()["name"] == "natural"
