"""A method in one file of a person's own, used by name: the same laws hold for it as for those of the library."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import randn
from torch.testing import assert_close

from invdiff import Posterior, PosteriorSampler
from invdiff.methods import METHODS, Method
from invdiff.operators import Function, Matrix
from invdiff.priors import Gaussian

# What a person writes: three kinds of guidance, a sampler, a method with settings, and something else.
MINE = '''
import math

from invdiff.methods import ConditionalDenoiser, Correction, Method, Sampler, Transition
from invdiff.methods.denoised import Denoised, prior_mean
from invdiff.methods.steps import DDIM


class Matched(ConditionalDenoiser):
    """Moment matching by the dense matrix of the denoiser's covariance."""

    needs = ("linear",)
    differentiates = True
    can_draw = True

    def __init__(self, score, op, y, *, inflation=1.0):
        super().__init__(score, op, y)
        self.inflation = inflation

    def gain(self, at, residual):
        w = residual
        for _ in range(60):  # of a fixed point: enough for a few numbers
            seen = self.op(self.inflation * at.covariance(self.op.adjoint(w)))
            w = w + 0.3 * (residual - seen - self.op.sigma_y**2 * w)
        return self.inflation * at.covariance(self.op.adjoint(w))

    def posterior_mean(self, at):
        return at.x0_hat + self.gain(at, self.y - self.op(at.x0_hat))

    def posterior_draw(self, at, draw):
        from invdiff.methods.moments import TweedieGaussian

        zeta = TweedieGaussian(at, iterations=8).draw(draw(at.x_t.shape[1:]))
        n = self.op.sigma_y * draw(self.op.out_shape)
        return at.x0_hat + zeta + self.gain(at, self.y - self.op(at.x0_hat + zeta) - n)


class Ignoring(Matched):
    def posterior_mean(self, at):
        return at.x0_hat

    def posterior_draw(self, at, draw):
        return super().posterior_draw(at, draw) - self.gain(at, self.y)


class Pulled(Correction):
    """A small pull towards the data after every step."""

    needs = ("linear",)

    def correct(self, x_s, at, s, draw):
        alpha_s, _ = at.levels(s)
        return x_s + 0.1 * self.op.adjoint(alpha_s * self.y - self.op(x_s))


class Still(Transition):
    """Straight to the denoised state."""

    def transition(self, at, s, draw):
        alpha_s, sigma_s = at.levels(s)
        return alpha_s * at.x0_hat + sigma_s * draw(at.x_t.shape[1:])


class OneStep(Sampler):
    """The denoised first state."""

    def sample(self, times, *, streams, on_step):
        at = self.at(float(self.score.schedule(times[0])[1]) * streams.normal(self.op.in_shape, dtype=self.y.dtype), times[0])
        for _ in times[1:]:
            on_step(at.x0_hat, at.x0_hat)
        return at.x0_hat


METHOD = Method(Matched, rule="matched", steps=12, summary="as I like it")
number = 3
'''


@pytest.fixture
def mine(tmp_path: Path) -> Any:
    path = tmp_path / "mymethod.py"
    path.write_text(MINE)
    before = set(sys.modules)
    yield path
    for name in set(sys.modules) - before:
        if name.startswith("invdiff_own_"):
            del sys.modules[name]


ROOT = randn(6, 6, seed=1) / 6**0.5
PRIOR = Gaussian(randn(6, seed=2), ROOT @ ROOT.mT + 0.05 * torch.eye(6))
OP = Matrix(randn(2, 6, seed=3) / 2, sigma_y=0.5)
Y = torch.cat([OP.measure(PRIOR.sample(1, seed=s), seed=s + 1) for s in (4, 14)])


def check(post: Posterior, y: torch.Tensor) -> None:
    """Hold mean and variance to 4.5 Monte Carlo errors of the exact posterior."""
    exact, count = PRIOR.posterior(OP, y), len(post.samples)
    variance = exact.covariance().diagonal()
    assert ((post.mean[0] - exact.mean[0]).abs() < 4.5 * (variance / count).sqrt()).all(), "mean off"
    assert ((post.samples.var(0)[0] / variance - 1).abs() < 4.5 * (2 / count) ** 0.5).all(), "variance off"


@pytest.mark.parametrize("name", ["Matched", "METHOD"])
def test_samples_follow_the_exact_posterior_and_only_their_own(mine: Path, name: str) -> None:
    settings = {} if name == "METHOD" else {"rule": "matched", "steps": 12}
    sampler = PosteriorSampler(PRIOR, OP, method=f"{mine}:{name}", **settings)  # type: ignore[arg-type]
    post = sampler.run(Y[:1], num_samples=1000, seed=1)
    assert (post.method, post.options["steps"], post.options["rule"]) == (name, 12, "matched")
    check(post, Y[:1])
    with pytest.raises(AssertionError, match="off"):
        check(post, Y[1:])
    ignoring = PosteriorSampler(PRIOR, OP, method=f"{mine}:Ignoring", rule="matched", steps=12)
    with pytest.raises(AssertionError, match="off"):
        check(ignoring.run(Y[:1], num_samples=1000, seed=1), Y[:1])


@pytest.mark.parametrize(("name", "rule"), [("Matched", "ddpm"), ("Pulled", "ddpm"), ("Still", "own"), ("OneStep", "own")])
def test_every_kind_runs_from_a_file(mine: Path, name: str, rule: str) -> None:
    sampler = PosteriorSampler(PRIOR, OP, method=f"{mine}:{name}", steps=5)
    post = sampler.run(Y, num_samples=3)
    assert post.samples.isfinite().all()
    assert (post.method, post.options["rule"]) == (name, rule)
    alone = sampler.run(Y[:1], num_samples=3, chunk=1)
    assert_close(alone.samples[:, 0], post.samples[:, 0])


def test_the_object_the_class_and_the_file_are_the_same(mine: Path) -> None:
    method = METHODS.find(f"{mine}:Matched")
    assert METHODS.find(f"{mine}:Matched") is method
    assert method.summary == "Moment matching by the dense matrix of the denoiser's covariance"
    assert METHODS.find(f"{mine}:METHOD").summary == "as I like it"
    assert f"{mine}:Matched" not in METHODS
    ways: list[Any] = [f"{mine}:Matched", method, method.algorithm, Method(method.algorithm, rule="ddpm")]
    posts = [PosteriorSampler(PRIOR, OP, method=way, steps=3).run(Y) for way in ways]
    for post in posts:
        assert torch.equal(post.samples, posts[0].samples)
        assert post.method == "Matched"


def test_options_and_needs_are_checked_as_those_of_the_library(mine: Path) -> None:
    assert PosteriorSampler(PRIOR, OP, method=f"{mine}:Matched", inflation=2.0).run(Y).options["inflation"] == 2.0
    with pytest.raises(TypeError, match=r"has no option 'inflaton'\. Did you mean 'inflation'\? It takes inflation=1.0"):
        PosteriorSampler(PRIOR, OP, method=f"{mine}:Matched", inflaton=2.0)
    with pytest.raises(ValueError, match="Matched needs a linear operator, got Function"):
        PosteriorSampler(PRIOR, Function(torch.tanh, (6,), sigma_y=0.1), method=f"{mine}:Matched")
    with pytest.raises(ValueError, match="'Pulled' has only its mean"):
        PosteriorSampler(PRIOR, OP, method=f"{mine}:Pulled", rule="matched")
    with pytest.raises(ValueError, match="'Still' takes no step rule"):
        PosteriorSampler(PRIOR, OP, method=f"{mine}:Still", rule="ddpm")


def test_products_without_a_graph_are_explained(mine: Path) -> None:
    mine.write_text(MINE.replace("    differentiates = True\n", ""))
    with pytest.raises(RuntimeError, match="declares differentiates = True"):
        PosteriorSampler(PRIOR, OP, method=f"{mine}:Matched").run(Y)


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        ("nowhere.py:Matched", ValueError, "there is no file"),
        ("{mine}:Matchd", ValueError, "has no 'Matchd', only .*Matched"),
        ("{mine}:number", TypeError, "number: expected a Method, or a class derived from .* got int"),
    ],
)
def test_what_is_not_there(mine: Path, place: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PosteriorSampler(PRIOR, OP, method=place.format(mine=mine))


WRONG = """
from invdiff.methods import ConditionalDenoiser, Transition


class Empty(ConditionalDenoiser):
    def posterior_mean(self, at):
        return None


class Batched(Transition):
    def transition(self, at, s, draw):
        return at.x0_hat + at.sigma_t * draw(at.x_t.shape)
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [("Empty", "an estimate of x_0 of shape .*, got NoneType"), ("Batched", "a state of shape .*, got a tensor of shape")],
)
def test_a_result_of_the_wrong_shape_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    with pytest.raises(TypeError, match=f"{name}: expected {message}"):
        PosteriorSampler(PRIOR, OP, method=f"{tmp_path / 'wrong.py'}:{name}").run(Y)
