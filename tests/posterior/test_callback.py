"""The callback of a run: what it sees, of whom, and how often."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from cases import build
from helpers import randn
from latent_problem import decoded_for
from torch import Tensor
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.methods import METHODS
from invdiff.operators import Mask, Matrix
from invdiff.posterior import Step
from invdiff.priors import Gaussian, ScoreModel

# Four steps are too few for most methods.
pytestmark = pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")
PRIOR = build(Gaussian)[0]
OPS = {
    "noise": Matrix(randn(3, 6, seed=9), sigma_y=0.2),
    "exact": Matrix(randn(3, 6, seed=9)),
    "mask": Mask(torch.tensor([1, 0, 1, 0, 1, 0])),
}
STEPS, COUNT, ITEMS = 4, 3, 2
WITHOUT_ESTIMATE = {"snips", "pnp-dm"}


def operator(method: str) -> Any:
    needs = METHODS[method].needs
    kind = "mask" if {"mask", "inpainting"} & set(needs) else "exact" if "exact" in needs else "noise"
    return decoded_for(method, OPS[kind])


@pytest.mark.parametrize("chunk", [None, 1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_every_sample_once_in_every_step_and_the_last_states_are_the_samples(method: str, chunk: int | None) -> None:
    op, seen = operator(method), list[Step]()
    sampler = PosteriorSampler(PRIOR, op, method=method, steps=STEPS)
    y = op.measure(PRIOR.sample(ITEMS, seed=1), seed=2)
    post = sampler.run(y, num_samples=COUNT, chunk=chunk, callback=seen.append)
    assert torch.equal(post.samples, sampler.run(y, num_samples=COUNT, chunk=chunk).samples)

    everyone = set(itertools.product(range(COUNT), range(ITEMS)))
    times = sampler.plan(COUNT).times
    for number in range(1, STEPS + 1):
        steps = [step for step in seen if step.number == number]
        assert Counter(row for step in steps for row in step.rows) == Counter(everyone)
        assert all((step.t, step.s, step.steps) == (times[number - 1], times[number], STEPS) for step in steps)
    for step in seen:
        assert step.x_s.shape == (len(step.rows), 6)
        assert not step.x_s.requires_grad
        assert (step.estimate is None) == (method in WITHOUT_ESTIMATE)
        assert step.estimate is None or step.estimate.shape == step.x_s.shape
        if step.number == STEPS:
            for x, (k, b) in zip(step.x_s, step.rows, strict=True):
                assert torch.equal(x, post.samples[k, b])


@pytest.mark.parametrize(("method", "rule"), [("dps", "ddpm"), ("dps", "heun"), ("ddrm", None), ("tds", None)])
def test_the_estimate_of_what_does_not_follow_a_posterior_mean_is_the_denoised_state(method: str, rule: str | None) -> None:
    op, seen = OPS["noise"], list[Step]()
    y = op.measure(PRIOR.sample(1, seed=1), seed=2)
    PosteriorSampler(PRIOR, op, method=method, rule=rule, steps=STEPS).run(y, num_samples=1, callback=seen.append)
    if method == "tds":  # Its particles may be resampled between two steps.
        assert len(seen) == STEPS
        return
    for before, step in itertools.pairwise(seen):
        assert step.estimate is not None
        assert_close(step.estimate, PRIOR.denoise(before.x_s, step.t))


def test_the_estimate_of_a_conditional_denoiser_is_what_the_rule_followed() -> None:
    """At the last step of a first-order rule the state is the estimate."""
    op, seen = OPS["noise"], list[Step]()
    y = op.measure(PRIOR.sample(1, seed=1), seed=2)
    for rule in ("ddpm", "ddim", "matched"):
        post = PosteriorSampler(PRIOR, op, method="mmps", rule=rule, steps=STEPS).run(y, callback=seen.append)
        assert seen[-1].estimate is not None
        assert_close(seen[-1].estimate, post.samples[:, 0])


class Crowded(ScoreModel):
    """A prior on a device that holds two rows, and says so in the middle of a run."""

    def __init__(self) -> None:
        self.schedule, self.event_shape, self.calls = PRIOR.schedule, PRIOR.event_shape, 0

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        if len(x_t) > 2 and self.calls > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return PRIOR.denoise(x_t, t)


def test_a_chunk_that_is_drawn_again_ends_with_the_same_states() -> None:
    op, last = OPS["noise"], dict[tuple[int, int], Tensor]()

    def keep(step: Step) -> None:
        last.update({row: x for row, x in zip(step.rows, step.x_s, strict=True) if step.number == step.steps})

    y = op.measure(PRIOR.sample(1, seed=1), seed=2)
    post = PosteriorSampler(Crowded(), op, method="pigdm", steps=STEPS).run(y, num_samples=5, callback=keep)
    assert len(last) == 5
    for (k, b), x in last.items():
        assert torch.equal(x, post.samples[k, b])


def test_an_error_of_the_callback_ends_the_run() -> None:
    def stop(step: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PosteriorSampler(PRIOR, OPS["noise"], method="dps", steps=3).run(torch.zeros(1, 3), callback=stop)


@pytest.mark.parametrize("method", ["dps", "red-diff", "tds", "daps", "langevin"])
def test_what_it_keeps_and_what_it_changes_are_copies(method: str) -> None:
    op, kept = OPS["noise"], list[Tensor]()
    y = op.measure(PRIOR.sample(1, seed=1), seed=2)
    sampler = PosteriorSampler(PRIOR, op, method=method, steps=STEPS)

    def spoil(step: Step) -> None:
        kept.append(step.x_s)
        for tensor in (step.t, step.s, *([] if step.estimate is None else [step.estimate])):
            tensor.zero_()

    assert_close(sampler.run(y, callback=spoil).samples, sampler.run(y).samples)
    assert len({float(x.sum()) for x in kept}) == STEPS
    for x in kept:
        x.zero_()
    assert_close(sampler.run(y, callback=lambda step: step.x_s.zero_()).samples, sampler.run(y).samples)


def test_it_can_be_called() -> None:
    with pytest.raises(TypeError, match="callback must be a function of a Step, got int"):
        PosteriorSampler(PRIOR, OPS["noise"], method="dps", steps=3).run(torch.zeros(1, 3), callback=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
