"""What is said before a run: how long it takes, how much memory it needs, and what cannot be expected of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from cases import build
from click.testing import CliRunner
from PIL import Image

import invdiff
from invdiff import PosteriorSampler, load_prior
from invdiff.cli.solve import solve as command
from invdiff.operators import Identity, Mask
from invdiff.posterior import Step
from invdiff.priors import Gaussian, ScoreModel, Tiled, from_network
from invdiff.problems import PROBLEMS, Inpaint, Outpaint, RetrievePhase, SuperResolution
from invdiff.restoration import estimate
from invdiff.restoration.estimate import ShareWatch, Stopwatch
from invdiff.restoration.fit import Fit, fit
from invdiff.restoration.memory import LiveMemory, available_memory, needed_memory
from invdiff.schedules import EDM

CPU = torch.device("cpu")


class Clock:
    """A run in which the first chunk of some samples reports its steps, at a speed that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(estimate.time, "perf_counter", lambda: self.now)

    def run(self, watch: Stopwatch, seconds: Callable[[int], float], *, steps: int, rows: int) -> None:
        for number in range(1, steps + 1):
            self.now += seconds(number)
            none = torch.zeros(())
            watch(Step(number, steps, none, none, none, None, [(0, k) for k in range(rows)]))


class TestTime:
    @pytest.mark.parametrize("first", [0.3, 2.0, 30.0])
    @pytest.mark.parametrize(("steps", "chunk", "rows"), [(20, 2, 8), (16, 4, 4), (2, 1, 4), (1, 1, 3)])
    def test_a_steady_run(self, monkeypatch: pytest.MonkeyPatch, first: float, steps: int, chunk: int, rows: int) -> None:
        clock, seen = Clock(monkeypatch), list[tuple[float, float]]()
        watch = Stopwatch(steps * [1.0], rows, CPU, lambda *told: seen.append(told), _started=clock.now)
        clock.run(watch, lambda number: first if number == 1 and steps > 1 else 0.3, steps=steps, rows=chunk)
        assert watch.seconds is not None
        if first < 10:
            once = first - 0.3 if steps > 1 else 0.0
            assert watch.seconds == pytest.approx(once + 0.3 * steps * rows / chunk)
        assert len(seen) == 1
        assert seen[0][0] == watch.seconds
        assert seen[0][1] < watch.seconds

    def test_steps_of_different_cost(self, monkeypatch: pytest.MonkeyPatch) -> None:
        costs = 8 * [1.0] + 12 * [2.5]
        clock = Clock(monkeypatch)
        watch = Stopwatch(costs, 2, CPU, _started=clock.now)
        clock.run(watch, lambda number: 0.4 * costs[number - 1], steps=20, rows=1)
        assert watch.seconds == pytest.approx(2 * 0.4 * sum(costs))

    def test_a_run_with_less_than_a_quarter_of_its_steps_done(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock, seen = Clock(monkeypatch), list[float]()
        watch = Stopwatch(40 * [1.0], 1, CPU, lambda total, left: seen.append(left / total), _started=clock.now)
        clock.run(watch, lambda number: 0.01, steps=40, rows=1)
        assert seen[0] == pytest.approx(0.75)

    def test_a_run_that_reports_shares(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock, seen = Clock(monkeypatch), list[tuple[float, float]]()
        watch = ShareWatch(lambda *told: seen.append(told), _started=clock.now)
        for call in range(1, 30):
            clock.now += 7.0 if call == 1 else 0.5  # the first one loads and compiles
            watch(call / 50)
        assert seen == [(pytest.approx(7.0 + 49 * 0.5), pytest.approx((50 - 5) * 0.5))]

    def test_the_costs_of_a_handover_are_those_of_its_parts(self) -> None:
        natural = load_prior("natural", precision="float32")
        sampler = PosteriorSampler(natural, Mask(torch.eye(16) < 1, (3, 16, 16), sigma_y=0.1))
        costs = sampler.plan(1).costs(natural)
        assert len(costs) == 20
        assert sorted(set(costs)) == [1.0, pytest.approx(1.6)]
        ratios = [float(natural.schedule.ratio(t)) for t in sampler.plan(1).times[:-1]]
        assert [cost > 1 for cost in costs] == [ratio < 1 for ratio in ratios]
        assert set(PosteriorSampler(natural, Identity((3, 16, 16), sigma_y=0.1)).plan(1).costs(natural)) == {1.0}


class TestMemory:
    def test_tensors_that_are_alive(self) -> None:
        known = torch.zeros(1000)
        with LiveMemory([known]) as live:
            a = known + 1  # 4 kB
            b = a.view(10, 100)  # the same memory
            c = b * 2
            del a, b
            d = c * 2
        assert (live.peak, live.now) == (8000, 8000)
        assert d.sum() == 4000

    @pytest.mark.parametrize(
        ("side", "samples", "sigma_y", "masked", "measured"),
        [
            (256, 1, 0.04, True, 300),
            (256, 1, 0.2, False, 146),
            (512, 1, 0.2, False, 537),
            (512, 4, 0.04, True, 1011),
            (1024, 1, 0.04, True, 3728),
            (1024, 1, 0.2, False, 1658),
        ],
    )
    def test_what_the_process_was_measured_to_take(
        self, side: int, samples: int, sigma_y: float, *, masked: bool, measured: float
    ) -> None:
        """Peaks above the memory before the run, in MiB, of masks (that of 1024 pixels: of a blur) and of denoising."""
        natural, shape = load_prior("natural", precision="float32"), (3, side, side)
        op = Mask(torch.eye(side) < 1, shape, sigma_y=sigma_y) if masked else Identity(shape, sigma_y=sigma_y)
        needed = needed_memory(PosteriorSampler(natural, op), num_samples=samples, chunk=None, device=CPU)
        assert needed is not None
        assert 1.0 <= needed / 2**20 / measured <= 1.3

    def test_rows_and_windows(self) -> None:
        natural = load_prior("natural", precision="float32")
        mask = Mask(torch.eye(512) < 1, (3, 512, 512), sigma_y=0.1)

        def needed(score: ScoreModel, num_samples: int = 1, **settings: Any) -> float:
            run = {name: settings.pop(name, None) for name in ("chunk", "side")}
            sampler = PosteriorSampler(score, mask, **settings)
            bytes_ = needed_memory(sampler, num_samples=num_samples, device=CPU, **run)
            assert bytes_ is not None
            return bytes_ - 4 * 8 * num_samples * 3 * 512**2  # without the results

        one = needed(natural)
        assert needed(natural, 4) == pytest.approx(one, rel=0.01)  # chunks of one
        assert needed(natural, 4, chunk=4) > 3 * one
        assert needed(natural, method="exact-score") < one / 1.5  # no gradient
        assert needed(Tiled(natural, tile=64, batch=1), method="dps") < needed(natural, method="dps") / 4
        assert needed(natural, side=480) < one
        assert needed(natural.in_parts(480)) == needed(natural, side=480)

    def test_not_known_or_little(self) -> None:
        def needed(score: ScoreModel, side: int, device: torch.device = CPU) -> int | None:
            sampler = PosteriorSampler(score, Mask(torch.eye(side) < 1, (3, side, side), sigma_y=0.1))
            return needed_memory(sampler, num_samples=1, chunk=None, device=device)

        natural = load_prior("natural", precision="float32")
        assert needed(natural, 64) is None
        assert needed(natural, 256, torch.device("cuda")) is None
        assert needed(Gaussian.stationary(torch.zeros(3, 256, 256), torch.ones(3, 256, 129)), 256) is None
        told = from_network(lambda x, t: x * float(x.mean()), EDM(), predicts="edm", event_shape=(3, None, None))
        told.of_user = False  # not tried
        assert needed(told, 256) is None  # It asks for a value.

    def test_available(self) -> None:
        there = available_memory()
        assert there is None or there > 2**20


@cache
def masked(side: int) -> PosteriorSampler:
    op = Mask(torch.eye(side) < 1, (3, side, side), sigma_y=0.1)
    return PosteriorSampler(load_prior("natural", precision="float32"), op)


class TestFit:
    """The memory is made to be short. What is chosen leaves the samples as they are."""

    def fit(
        self,
        monkeypatch: pytest.MonkeyPatch,
        there: float | None,
        *,
        side: int = 256,
        score: ScoreModel | None = None,
        **run: Any,
    ) -> Fit:
        sampler = masked(side) if score is None else PosteriorSampler(score, masked(side).op)
        monkeypatch.setattr("invdiff.restoration.fit.available_memory", lambda: there)
        return fit(sampler, score or sampler.score, **{"num_samples": 2, "chunk": None, "device": CPU, **run})

    @pytest.mark.parametrize("there", [None, 2e9])
    def test_enough_or_not_known(self, monkeypatch: pytest.MonkeyPatch, there: float | None) -> None:
        found = self.fit(monkeypatch, there)
        assert (found.chunk, found.chosen, found.advice) == (None, (), ())

    def test_a_smaller_chunk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.fit(monkeypatch, 5e8)
        assert (found.chunk, found.advice) == (1, ())
        assert found.needed is not None
        assert found.needed <= 5e8
        assert "1 of 2 samples at a time" in found.chosen[0]

    def test_the_chunk_of_the_user_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.fit(monkeypatch, 5e8, chunk=2)
        assert (found.chunk, found.chosen) == (2, ())
        assert "use --chunk 1, --tile 256, --samples 1, --precision bfloat16" in found.advice[0]

    def test_squares(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = self.fit(monkeypatch, None, side=2000)
        assert whole.needed is not None
        for there, side in ((0.8 * whole.needed, 1536), (7e9, 1024), (5e9, 768)):
            found = self.fit(monkeypatch, there, side=2000)
            assert found.sampler.score.describe()["side"] == side
            assert found.needed is not None
            assert found.needed <= there
            assert f"squares of {side} pixels" in found.chosen[-1]
            assert found.advice == ()

    def test_what_changes_the_samples_is_advised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        natural = load_prior("natural", precision="float32")
        found = self.fit(monkeypatch, 1e8, num_samples=1, score=Tiled(natural, tile=256))
        assert found.chosen == ()
        assert "are available: use --precision bfloat16" in found.advice[0]
        (advice,) = self.fit(monkeypatch, 1e9, side=2000, num_samples=1).advice
        assert "--tile 256" in advice
        assert "--chunk" not in advice


class TestDoubts:
    @pytest.mark.parametrize("name", PROBLEMS)
    def test_one_line_each(self, name: str) -> None:
        natural = load_prior("natural", precision="float32")
        for problem in build(PROBLEMS[name]):
            notes = problem.doubts(natural)
            assert isinstance(notes, tuple)
            assert not any("\n" in note for note in notes)
        assert PROBLEMS[name].misfit_causes

    def test_holes(self) -> None:
        natural = load_prior("natural", precision="float32")
        widest = natural.widest_hole
        assert widest is not None

        def doubts(height: int, width: int, *, score: ScoreModel = natural, at: int = 20) -> tuple[str, ...]:
            mask = np.ones((160, 300), dtype=bool)
            mask[at : at + height, at : at + width] = False
            return Inpaint(mask).doubts(score)

        assert doubts(widest, widest) == ()
        assert doubts(widest // 2, 250) == ()  # long and thin
        (note,) = doubts(100, 120)
        assert "100 pixels wide" in note
        assert f"up to about {widest} pixels" in note
        assert doubts(100, 120, score=Gaussian(torch.zeros(4), torch.ones(4))) == ()
        assert doubts(widest, 250, at=0) != ()  # known on one side alone
        assert Outpaint(widest // 2).doubts(natural) == ()
        assert f"by up to about {widest // 2} pixels" in Outpaint(widest).doubts(natural)[0]

    def test_adapters_keep_the_width(self) -> None:
        natural = load_prior("natural", precision="float32")
        assert Tiled(natural, tile=64).widest_hole == natural.widest_hole

    def test_other_problems(self) -> None:
        score = Gaussian(torch.zeros(4), torch.ones(4))
        assert SuperResolution(3).doubts(score) == ()
        assert "94% of the values are invented" in SuperResolution(4).doubts(score)[0]
        assert RetrievePhase.coded(2, (16, 24), seed=0).doubts(score) == ()
        assert "rotation by 180 degrees" in RetrievePhase((16, 24), oversampling=2.0).doubts(score)[0]
        assert "guesses" in PROBLEMS["colorize"]().doubts(score)[0]


class TestCommand:
    @pytest.fixture
    def words(self, tmp_path: Any, tiny_prior: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        monkeypatch.chdir(tmp_path)
        pixels = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save("in.png")
        given = ["in.png", "--problem", "colorize", "--prior", str(tiny_prior), "--precision", "float32", "--samples", "2"]
        return [*given, "--steps", "3", "-o", "out"]

    def test_estimate_and_doubts_before_the_results(self, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        short = CliRunner().invoke(command, words, catch_exceptions=False)
        assert "estimate" not in short.stderr
        monkeypatch.setattr("invdiff.cli.solve_file.SHORT", -1.0)
        result = CliRunner().invoke(command, [*words, "--overwrite", "--json"], catch_exceptions=False)
        record = json.loads(result.stdout)
        assert "estimate: about 1 second for 2 samples" in result.stderr
        lines = result.stderr.splitlines()
        assert len(lines) == len(set(lines))
        assert [line for line in lines if line.startswith("colors: ")] == [
            n for n in record["notes"] if n.startswith("colors: ")
        ]
        assert 0 < record["timing"]["estimate"]["seconds"] < 10
        assert record["timing"]["estimate"]["memory_mib"] is None

    def test_what_was_chosen_is_said_and_recorded(self, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        whole = CliRunner().invoke(command, [*words, "--json"], catch_exceptions=False)
        monkeypatch.setattr("invdiff.restoration.fit.needed_memory", lambda *_, chunk, **__: 10**9 * (chunk or 2))
        monkeypatch.setattr("invdiff.restoration.fit.available_memory", lambda: 15 * 10**8)
        divided = CliRunner().invoke(command, [*words, "--overwrite", "--json"], catch_exceptions=False)
        before, after = (json.loads(result.stdout) for result in (whole, divided))
        assert (after["options"]["chunk"], after["arguments"]["chunk"]) == (1, None)
        (note,) = [note for note in after["notes"] if note.startswith("memory: 1 of 2 samples at a time")]
        assert note in divided.stderr
        assert after["residual"] == pytest.approx(before["residual"], rel=1e-4)

    def test_restore_records_the_estimate_and_prints_nothing(
        self, tiny_prior: Any, words: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        result = invdiff.restore("in.png", problem="colorize", prior=str(tiny_prior), precision="float32", samples=2, steps=3)
        assert math.isfinite(result.record["timing"]["estimate"]["seconds"])
        assert capsys.readouterr() == ("", "")

    def test_a_misfit_names_what_is_wrong_with_the_problem(self, tiny_prior: Any, words: list[str]) -> None:
        settings = {"prior": str(tiny_prior), "precision": "float32", "steps": 2, "samples": 2}
        with pytest.warns(invdiff.posterior.MisfitWarning, match="Likely causes: a wrong --kernel.* a noise level that is"):
            invdiff.restore("in.png", problem="deblur", kernel="gaussian:1", noise=0.01, **settings)
