"""How long to work for a better result: what ``quality`` runs, and what ``--quality`` says of the time."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from cases import build
from PIL import Image

from invdiff import PosteriorSampler, load_prior
from invdiff.cli.duration import duration, estimate
from invdiff.operators import LinearOperator
from invdiff.priors import ErrorModel, Gaussian, ScoreModel
from invdiff.problems import PROBLEMS, QUALITIES, Problem

pytestmark = pytest.mark.slow


class Told(ScoreModel):
    """A prior that denoises every kind of noise, and whose error was measured."""

    def __init__(self) -> None:
        self.schedule, self.noise_kinds = build(Gaussian)[0].schedule, frozenset(("pixel", "frequency", "decimation"))
        self.error_model = cast(ErrorModel, object())

    def denoise(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x_t


def case(cls: type[Problem]) -> tuple[Problem, Any]:
    problem = build(cls)[0]
    height, width = problem.size or (16, 24)
    return problem, problem.operator((3, height, width))


@pytest.mark.parametrize("cls", PROBLEMS.values(), ids=lambda cls: cls.name)
class TestSettings:
    def test_a_better_quality_takes_more(self, cls: type[Problem]) -> None:
        problem, op = case(cls)
        plain = Told()
        plain.noise_kinds, plain.error_model = frozenset(), None
        steps = [problem.settings(plain, op, quality=quality)["steps"] for quality in QUALITIES]
        assert steps[0] < steps[1] < steps[2]
        with pytest.raises(ValueError, match="quality must be one of fast, balanced, best, got 'good'"):
            problem.settings(plain, op, quality="good")

    def test_the_prior_decides_whether_gradients_are_needed(self, cls: type[Problem]) -> None:
        problem, op = case(cls)
        told = Told()
        admitted = isinstance(op, LinearOperator) and op.svd is not None and op.svd.kind in told.noise_kinds
        admitted = admitted and op.noise.white
        part = isinstance(op, LinearOperator) and op.completed is not None and op.noise.white
        fast, balanced, best = (problem.settings(told, op, quality=quality) for quality in QUALITIES)
        assert (fast.get("method") == "exact-score") == admitted
        chosen = "exact-score" if problem.leaves_white else "handover"
        assert [settings.get("method") for settings in (balanced, best)] == 2 * [chosen if admitted or part else None]
        told.error_model = None  # no draws, no matched rule
        assert problem.settings(told, op) == problem.recommended


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 second"),
        (8.4, "8 seconds"),
        (75, "75 seconds"),
        (100, "1.7 minutes"),
        (1234, "21 minutes"),
        (5000, "83 minutes"),
        (36000, "10 hours"),
    ],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_estimate_counts_steps_and_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr("invdiff.cli.duration.time.perf_counter", lambda: float(next(clock)))
    _, op = case(PROBLEMS["denoise"])
    sampler = PosteriorSampler(Gaussian.stationary(torch.zeros(3, 16, 24), torch.ones(3, 16, 13)), op, steps=20)
    assert estimate(sampler, torch.zeros(1, 3, 16, 24), 6) == pytest.approx(3 / 2 * 20 * 6)
    assert sampler.plan(6).steps == 20  # as it was


class TestCommand:
    @pytest.fixture
    def arguments(self, tmp_path: Any, tiny_prior: Any) -> tuple[Any, ...]:
        pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in.png")
        given = ("--problem", "denoise", "--noise", 0.05, "--prior", tiny_prior, "--precision", "float32", "--samples", 2)
        return ("solve", tmp_path / "in.png", *given)

    def test_it_says_how_long_it_takes(self, invdiff: Any, arguments: Any) -> None:
        result = invdiff(*arguments, "--quality", "fast", "-o", "out")
        assert "fast: 2 samples, about 1 second" in result.output
        assert "8 steps" in result.output

    def test_what_it_decides_cannot_be_given_too(self, invdiff: Any, arguments: Any) -> None:
        for more in (("--steps", 3), ("--method", "dps"), ("--option", "rtol=0.1")):
            result = invdiff(*arguments, "--quality", "best", *more, code=2)
            assert f"--quality determines the method and its settings: leave out {more[0]}" in result.output

    def test_natural_asks_for_few_gradients(self) -> None:
        """Enlargement, for one: 20 evaluations, the gradients below ratio 1, and what was measured is kept."""
        natural = load_prior("natural", precision="float32")
        problem = build(PROBLEMS["sr"])[0]
        op = problem.operator((3, 32, 48))
        y = 0.2 * torch.randn(1, *op.out_shape, generator=torch.Generator().manual_seed(0))
        post = PosteriorSampler(natural, op, **problem.settings(natural, op)).run(y, num_samples=2)
        assert (post.method, post.nfe, post.nvjp) == ("handover", 20, 12)
        assert (op(post.samples.flatten(0, 1)) - y).abs().max() < 0.02
        other = PosteriorSampler(natural, op, **problem.settings(natural, op)).run(-y, num_samples=2)
        assert (other.samples - post.samples).abs().max() > 0.1
