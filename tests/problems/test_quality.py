"""How long to work for a better result: what ``quality`` runs, and what ``--quality`` says of the time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import build
from PIL import Image

from invdiff import PosteriorSampler
from invdiff.cli.duration import duration, estimate

from invdiff.priors import Gaussian
from invdiff.problems import PROBLEMS

pytestmark = pytest.mark.slow


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
