"""Recommended settings: by the prior and the operator, the same in Python and at the command line."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import pytest
import torch
from cases import build

import invdiff
from invdiff import PosteriorSampler, load_prior
from invdiff.methods.resolve import ResolvedMethod
from invdiff.operators import (
    Blur,
    ChannelMix,
    FanBeamCT,
    Identity,
    LaplaceNoise,
    LinearOperator,
    Mask,
    Operator,
    gaussian_kernel,
    per_channel,
    stack,
)
from invdiff.posterior import QUALITIES, recommended
from invdiff.priors import ErrorModel, Gaussian, NetworkPrior, Rescaled, ScoreModel, Tiled, from_network
from invdiff.priors.adapters.channels import Gray, PerChannel
from invdiff.problems import PROBLEMS, Denoise, OptionError, Problem
from invdiff.restoration import prepare
from invdiff.restoration.sampling import sampler_arguments
from invdiff.schedules import EDM

SHAPE = (3, 16, 24)
NOTHING: dict[str, Any] = {"method": "auto", "steps": None, "rule": None, "preset": None}


class Told(ScoreModel):
    """A prior that denoises every kind of noise, and whose error was measured."""

    learned = True

    def __init__(self) -> None:
        self.schedule, self.noise_kinds = EDM(), frozenset(("pixel", "frequency", "decimation"))
        self.error_model = cast(ErrorModel, object())

    def denoise(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x_t


def plain(**attributes: Any) -> Told:
    told = Told()
    for name, value in ({"noise_kinds": frozenset(), "error_model": None} | attributes).items():
        setattr(told, name, value)
    return told


def case(cls: type[Problem]) -> tuple[Problem, Operator]:
    problem = build(cls)[0]
    height, width = problem.size or (16, 24)
    return problem, problem.operator((3, height, width))


def everything(plan: ResolvedMethod) -> tuple[Any, ...]:
    return plan.method.name, plan.steps, plan.rule_name, plan.spacing, plan.times.tolist(), dict(plan.options)


@pytest.fixture(scope="module")
def natural() -> NetworkPrior:
    prior = load_prior("natural", precision="float32")
    assert isinstance(prior, NetworkPrior)
    return prior


@pytest.mark.parametrize("cls", PROBLEMS.values(), ids=lambda cls: cls.name)
class TestEveryProblem:
    def test_the_command_line_runs_what_python_runs(self, cls: type[Problem], natural: NetworkPrior) -> None:
        problem, op = case(cls)
        for quality in (None, *QUALITIES):
            solve = PosteriorSampler(natural, op, **sampler_arguments(problem, {**NOTHING, "quality": quality}, {}))
            assert everything(solve.plan(4)) == everything(PosteriorSampler(natural, op, quality=quality).plan(4))
        plan = PosteriorSampler(natural, op).plan(64)  # No particles, however many samples there are.
        assert everything(plan) == everything(PosteriorSampler(natural, op).plan(1))
        assert plan.steps <= 20

    def test_a_better_quality_takes_more(self, cls: type[Problem]) -> None:
        for score in (plain(), plain(learned=False)):
            steps = [recommended(score, case(cls)[1], quality)["steps"] for quality in QUALITIES]
            assert steps[0] < steps[1] < steps[2]
        with pytest.raises(ValueError, match="quality must be one of fast, balanced, best, got 'good'"):
            recommended(plain(), case(cls)[1], "good")

    def test_the_prior_decides_whether_gradients_are_needed(self, cls: type[Problem]) -> None:
        _, op = case(cls)
        told = Told()
        admitted = isinstance(op, LinearOperator) and op.svd is not None and op.svd.kind in told.noise_kinds
        admitted = admitted and op.noise.white
        fast, balanced, best = (recommended(told, op, quality) for quality in QUALITIES)
        assert (fast["method"] == "exact-score") == admitted
        chosen = "exact-score" if isinstance(op, Identity) else "handover"
        assert [settings["method"] for settings in (balanced, best)] == 2 * [chosen if admitted else "mmps"]
        told.error_model = None  # no draws, no matched rule
        assert recommended(told, op)["method"] == "mmps"


class TestKinds:
    """The numbers with which the bundled calibration was made."""

    @pytest.mark.parametrize(
        ("op", "iterations", "products", "steps"),
        [
            (Mask(torch.ones(SHAPE)), 4, 1, 16),
            (stack([Identity(SHAPE, sigma_y=0.1), Identity(SHAPE, noise=LaplaceNoise(0.1))]), 20, 1, 16),
            (Blur(SHAPE, gaussian_kernel(1.0)), 6, 1, 16),
            (2 * Blur(SHAPE, gaussian_kernel(1.0), sigma_y=0.1), 6, 1, 16),
            (Blur(SHAPE, gaussian_kernel(1.0), noise=invdiff.operators.GaussianNoise(torch.ones(SHAPE))), 6, 1, 16),
            (Mask(torch.ones(SHAPE)) @ Blur(SHAPE, gaussian_kernel(1.0)), 6, 1, 16),
            (
                per_channel(
                    FanBeamCT(
                        (1, 16, 24),
                        [0.0, 40.0],
                        source_distance=90.0,
                        detector_distance=90.0,
                        detectors=9,
                        detector_spacing=2.0,
                    ),
                    3,
                ),
                16,
                2,
                16,
            ),
            (build(PROBLEMS["dejpeg"])[0].operator(SHAPE), 6, 2, 13),
            (build(PROBLEMS["ct"])[0].operator(SHAPE), 16, 2, 16),
        ],
        ids=lambda op: repr(op) if isinstance(op, Operator) else "",
    )
    def test_iterations(self, op: Operator, iterations: int, products: int, steps: int) -> None:
        found = recommended(plain(), op)
        assert (found["max_iterations"], found["products"], found["steps"]) == (iterations, products, steps)
        assert found["ratio_max"] == 10

    def test_white_pivots(self) -> None:
        levels = torch.linspace(0.1, 0.2, 24)
        assert recommended(Told(), Identity(SHAPE, sigma_y=0.1))["method"] == "exact-score"
        assert recommended(Told(), Mask(torch.ones(SHAPE), sigma_y=0.1))["method"] == "exact-score"
        assert recommended(Told(), Mask(torch.eye(24)[:16] < 1, SHAPE, sigma_y=0.1))["method"] == "handover"
        uneven = Identity(SHAPE, noise=invdiff.operators.GaussianNoise(levels.expand(SHAPE)))
        assert recommended(Told(), uneven)["method"] == "handover"

    def test_no_level_above_those_of_the_prior(self) -> None:
        low = plain(schedule=EDM(sigma_max=5.0))
        assert recommended(low, Mask(torch.ones(SHAPE)))["ratio_max"] == pytest.approx(5)
        plan = PosteriorSampler(low, Mask(torch.ones(SHAPE), sigma_y=0.1), method="dps").plan(1)
        assert float(low.schedule.ratio(plan.times[0])) == pytest.approx(5)


class TestLearned:
    def test_adapters_keep_it(self, natural: NetworkPrior) -> None:
        gray = from_network(lambda x, t: 0 * x, EDM(), predicts="x0", event_shape=(1, None, None))
        exact = Gaussian.stationary(torch.zeros(1, 8, 8), torch.ones(1, 8, 5))
        adapted: list[ScoreModel] = [
            natural,
            Gray(natural),
            PerChannel(gray),
            Rescaled(natural, (0, 1)),
            Tiled(natural, tile=8),
        ]
        assert all(score.learned for score in adapted)
        assert not any(score.learned for score in (exact, PerChannel(exact), Rescaled(exact, (0, 1))))

    def test_other_priors_and_other_items_keep_their_accuracy(self) -> None:
        op = Mask(torch.ones(SHAPE), sigma_y=0.1)
        exact = PosteriorSampler(plain(learned=False), op).plan(4)
        assert (exact.method.name, exact.steps, exact.rule_name, exact.options) == ("mmps", 50, "matched", {})
        assert float(EDM().ratio(exact.times[0])) == pytest.approx(80)
        measured = PosteriorSampler(Gaussian(torch.zeros(4), torch.ones(4)), Identity((4,), sigma_y=0.1))
        assert measured.plan(4).steps == 50
        numbers = PosteriorSampler(plain(event_shape=(16,)), Identity((16,), sigma_y=0.1)).plan(4)
        assert numbers.steps == 50

    def test_a_measured_network_that_knows_the_noise_hands_over(self, natural: NetworkPrior) -> None:
        known, gray = Mask(torch.eye(64) < 1, (3, 64, 64), sigma_y=0.1), ChannelMix.gray((3, 64, 64))
        assert everything(PosteriorSampler(natural, known).plan(4))[:3] == ("handover", 20, "matched")
        assert PosteriorSampler(natural, known, steps=30).plan(4).steps == 30
        ddpm = PosteriorSampler(natural, known, rule="ddpm").plan(4)
        assert (ddpm.method.name, ddpm.rule_name) == ("handover", "ddpm")
        assert PosteriorSampler(natural, gray).plan(4).method.name == "mmps"  # dense noise
        options = PosteriorSampler(natural, known, products=2).plan(4)
        assert (options.method.name, options.steps, options.options["products"]) == ("mmps", 16, 2)

    def test_methods_by_name_start_where_gradients_help(self, natural: NetworkPrior) -> None:
        op = Mask(torch.eye(16) < 1, (3, 16, 16), sigma_y=0.1)

        def start(**settings: Any) -> float:
            return float(natural.schedule.ratio(PosteriorSampler(natural, op, **settings).plan(1).times[0]))

        assert start(method="dps") == pytest.approx(10)
        assert start(method="dps", preset="paper") == pytest.approx(80)
        assert start(method="dps", ratio_max=20.0) == pytest.approx(20)
        assert start(method="exact-score") == pytest.approx(80)

    def test_quality_is_for_auto_alone(self, natural: NetworkPrior) -> None:
        op = Mask(torch.eye(16) < 1, (3, 16, 16), sigma_y=0.1)
        refused: list[dict[str, Any]] = [{"method": "dps"}, {"steps": 3}, {"products": 2}, {"rule": "ddpm"}]
        for settings in refused:
            with pytest.raises(ValueError, match=f"quality='best' determines .* leave out {next(iter(settings))}, or quality"):
                PosteriorSampler(natural, op, quality="best", **settings)
        with pytest.raises(ValueError, match="quality must be one of"):
            PosteriorSampler(natural, op, quality="good")
        assert "quality='fast'" in repr(PosteriorSampler(natural, op, quality="fast"))

    def test_few_gradients(self, natural: NetworkPrior) -> None:
        """Enlargement, for one: 20 evaluations, the gradients below ratio 1, and what was measured is kept."""
        op = build(PROBLEMS["sr"])[0].operator((3, 32, 48))
        y = 0.2 * torch.randn(1, *op.out_shape, generator=torch.Generator().manual_seed(0))
        post = PosteriorSampler(natural, op).run(y, num_samples=2)
        assert (post.method, post.nfe, post.nvjp) == ("handover", 20, 12)
        assert "learned prior" in post.options["auto"]
        assert (op(post.samples.flatten(0, 1)) - y).abs().max() < 0.02
        other = PosteriorSampler(natural, op).run(-y, num_samples=2)
        assert (other.samples - post.samples).abs().max() > 0.1


def test_restore_draws_the_samples_of_the_sampler(natural: NetworkPrior) -> None:
    pixels = np.random.default_rng(0).uniform(0.3, 0.7, (3, 16, 24))
    mask = np.zeros((16, 24))
    mask[4:9, 5:12] = 1
    settings = {"problem": "inpaint", "mask": mask, "samples": 2, "seed": 3, "prior": natural}
    job = prepare(pixels, settings)
    post = PosteriorSampler(natural, job.measured.op).run(job.y, num_samples=2, seed=3)
    assert torch.equal(job.run().posterior.samples, post.samples)


def test_at_the_command_line_quality_excludes_what_it_determines() -> None:
    for name, given, option in (("steps", {"steps": 3}, {}), ("method", {"method": "dps"}, {}), ("option", {}, {"rtol": 0.1})):
        with pytest.raises(OptionError, match=f"--quality determines the method and its settings: leave out --{name}"):
            sampler_arguments(case(PROBLEMS["denoise"])[0], NOTHING | given | {"quality": "best"}, option)


class Own(Denoise):
    """Denoising in more steps."""

    recommended: Mapping[str, Any] = MappingProxyType({"steps": 30})


def test_a_problem_may_know_better(natural: NetworkPrior) -> None:
    def steps(**settings: Any) -> int:
        arguments = sampler_arguments(Own(), NOTHING | settings, {})
        return PosteriorSampler(natural, Identity(SHAPE, sigma_y=0.1), **arguments).plan(1).steps

    assert (steps(), steps(steps=7), steps(quality="best")) == (30, 7, 48)
