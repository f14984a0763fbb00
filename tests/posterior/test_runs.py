"""Runs that are continued, joined, recorded, repeated and saved, over every method."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import randn
from latent_problem import decoded_for
from torch import Tensor
from torch.testing import assert_close

from invdiff import Posterior, PosteriorSampler
from invdiff.methods import METHODS, Method
from invdiff.methods.guidance import DPS
from invdiff.methods.options import options_of
from invdiff.methods.steps import DDIM
from invdiff.operators import Mask, Matrix, Operator, per_item
from invdiff.posterior import Step
from invdiff.priors import Gaussian, GaussianMixture

# Few steps, and methods that fit the data loosely.
pytestmark = pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")

PRIOR = GaussianMixture(
    torch.tensor([0.4, 0.6], dtype=torch.float64), 1.5 * randn(2, 4, seed=1), (0.3 * torch.eye(4)).double().expand(2, 4, 4)
)
WIDE = Matrix(randn(2, 4, seed=2), sigma_y=0.3)
HALF = Mask(torch.tensor([1, 0, 1, 0]), sigma_y=0.3)
EXACT, EXACT_HALF = Matrix(WIDE.matrix), Mask(torch.tensor([1, 0, 1, 0]))
TENSORS = ("samples", "weights", "residual")
GROUPS = ("inner_weights", "group_ess", "group_ancestors", "group_log_evidence", "ess", "ancestors", "log_evidence")


def suitable(name: str) -> Operator:
    needs = METHODS[name].needs
    if "inpainting" in needs:
        return HALF
    return EXACT_HALF if "mask" in needs else EXACT if "exact" in needs else decoded_for(name, WIDE)


def sampler(method: str, **settings: Any) -> PosteriorSampler:
    if "particles" in options_of(METHODS[method].algorithm):
        settings = {"particles": 4, **settings}
    return PosteriorSampler(PRIOR, suitable(method), method=method, steps=4, **settings)


def measured(op: Operator, items: int = 2) -> Tensor:
    return op.measure(PRIOR.sample(items, seed=3), seed=4)


def assert_same(one: Posterior, other: Posterior) -> None:
    """Every tensor bit for bit, dtype included."""
    for name in TENSORS:
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype
        assert torch.equal(a, b), name
    assert (one.particles is None) == (other.particles is None)
    if one.particles is not None and other.particles is not None:
        assert (one.particles.group, one.particles.weighted) == (other.particles.group, other.particles.weighted)
        for name in GROUPS:
            assert torch.equal(getattr(one.particles, name), getattr(other.particles, name)), name


def assert_identical(one: Posterior, other: Posterior) -> None:
    """Every field bit for bit."""
    assert_same(one, other)
    for name in ("nfe", "nvjp", "seconds", "method", "seed", "first_sample", "options", "origin", "notes"):
        assert getattr(one, name) == getattr(other, name), name
    assert torch.equal(torch.as_tensor(one.dof), torch.as_tensor(other.dof))
    assert isinstance(one.dof, Tensor) == isinstance(other.dof, Tensor)


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_joined_runs_are_one_run(self, method: str) -> None:
        y, of = measured(suitable(method)), sampler(method)
        whole = of.run(y, num_samples=10, chunk=4)
        parts = [of.run(y, num_samples=count, first_sample=first, chunk=4) for first, count in ((4, 4), (0, 4), (8, 2))]
        joined = Posterior.join(*parts)
        assert_same(joined, whole)
        assert (joined.first_sample, joined.options) == (0, whole.options)
        assert (joined.nfe, joined.nvjp) == pytest.approx((whole.nfe, whole.nvjp))
        assert joined.seconds == sum(part.seconds for part in sorted(parts, key=lambda part: part.first_sample))
        later = Posterior.join(parts[2], parts[0])
        assert (later.first_sample, len(later.samples)) == (4, 6)

    def test_items_with_seeds_of_their_own_are_runs_of_their_own(self, method: str) -> None:
        y, of = measured(suitable(method)), sampler(method)
        together = of.run(y, num_samples=5, seed=[7, 8])
        assert together.seed == (7, 8)
        for b, seed in enumerate((7, 8)):
            alone, one = of.run(y[b : b + 1], num_samples=5, seed=seed), together.item(b)
            assert one.seed == seed
            assert_close(one.samples, alone.samples)
            assert_close(one.weights, alone.weights)
            assert_close(one.residual, alone.residual)
            if alone.particles is not None and one.particles is not None:
                assert_close(one.particles.ess, alone.particles.ess)
        assert not torch.equal(of.run(y, num_samples=5, seed=[7, 7]).samples[:, 1], together.samples[:, 1])

    def test_files_return_everything_bit_for_bit(self, method: str, tmp_path: Path) -> None:
        post = sampler(method).run(measured(suitable(method)).float(), num_samples=4, first_sample=4, seed=5)
        post.save(tmp_path / "post.safetensors")
        assert_identical(Posterior.load(tmp_path / "post.safetensors"), post)

    def test_a_run_can_be_repeated_from_its_record(self, method: str) -> None:
        y = measured(suitable(method))
        post = sampler(method).run(y, num_samples=4, first_sample=4, seed=5)
        own = {name: post.options[name] for name in options_of(METHODS[method].algorithm)}
        given = {name: post.options[name] for name in ("steps", "spacing", "ratio_max", "ratio_min", "preset")}
        rule = None if post.options["rule"] == "own" else post.options["rule"]
        again = PosteriorSampler(PRIOR, suitable(method), method=post.method, rule=rule, **given, **own)
        repeated = again.run(
            y, num_samples=len(post.samples), first_sample=post.first_sample, seed=post.seed, chunk=post.options["chunk"]
        )
        assert_close(repeated.samples, post.samples, rtol=1e-6, atol=1e-6)  # ratios are recorded as numbers, not as times


def test_every_setting_is_recorded() -> None:
    """A new argument of the sampler or of a run must be found in the posterior, or be named here."""
    elsewhere = {
        "score": ("origin", "prior"),
        "op": ("origin", "operator"),
        "y": ("origin", "measurement"),
        "method": ("method",),
        "seed": ("seed",),
        "first_sample": ("first_sample",),
        "num_samples": ("samples",),
    }
    no_effect = {"self", "progress", "callback"}
    post = PosteriorSampler(PRIOR, WIDE, method="dps", steps=3).run(measured(WIDE))
    names = {
        name: parameter.kind
        for function in (PosteriorSampler.__init__, PosteriorSampler.run)
        for name, parameter in inspect.signature(function).parameters.items()
    }
    for name, kind in names.items():
        if name in no_effect:
            continue
        if kind is inspect.Parameter.VAR_KEYWORD:
            assert set(options_of(DPS)) <= set(post.options)
            continue
        attribute, *keys = elsewhere.get(name, ("options", name))
        found = getattr(post, attribute)
        for key in keys:
            assert key in found, f"{name} is not recorded"
            found = found[key]


def test_settings_are_recorded_as_they_were_given() -> None:
    y = measured(WIDE)
    of = PosteriorSampler(PRIOR, WIDE, method="mmps", steps=3, rule=DDIM(0.5), spacing="uniform", ratio_max=5.0, rtol=0.1)
    post = of.run(y, num_samples=2, first_sample=7, seed=9, chunk=1)
    given = {"steps": 3, "rule": "DDIM(eta=0.5)", "spacing": "uniform", "rtol": 0.1, "chunk": 1, "preset": None}
    assert given.items() <= post.options.items()
    assert post.options["ratio_max"] == pytest.approx(5.0)
    assert (post.seed, post.first_sample) == (9, 7)
    assert post.origin["prior"] == PRIOR.describe()
    assert post.origin["operator"] == repr(WIDE)
    assert (post.origin["dtype"], post.origin["device"], post.origin["measurement"]["shape"]) == ("float64", "cpu", [2, 2])
    assert {"invdiff", "torch", "numpy", "python"} == set(post.origin["versions"])
    other = PosteriorSampler(PRIOR, WIDE, method="mmps", steps=3).run(y + 1e-3)
    assert other.origin["measurement"]["sha256"] != post.origin["measurement"]["sha256"]
    budget = PosteriorSampler(PRIOR, WIDE, budget=0, steps=3).run(y)
    assert budget.options["budget"] == 0
    assert PosteriorSampler(PRIOR, HALF, method="dps", preset="paper", steps=3).run(measured(HALF)).options["preset"] == "paper"


def test_the_callback_counts_samples_of_the_posterior() -> None:
    steps: list[Step] = []
    post = sampler("tds").run(measured(WIDE), num_samples=6, first_sample=8, callback=steps.append)
    last = [step for step in steps if step.number == step.steps]
    assert sorted(row for step in last for row in step.rows) == [(k, b) for k in range(6) for b in range(2)]
    for step in last:
        for r, row in enumerate(step.rows):
            assert torch.equal(step.x_s[r], post.samples[row])


def test_seeds_and_items_that_are_not_there() -> None:
    y, of = measured(WIDE), sampler("dps")
    with pytest.raises(ValueError, match="one for each of the 2 items of y, got 3"):
        of.run(y, seed=[1, 2, 3])
    with pytest.raises(IndexError, match="from 0 to 1, got 2"):
        of.run(y).item(2)


def test_samples_of_groups_start_with_a_group() -> None:
    with pytest.raises(ValueError, match=r"tds draws samples in groups of 4, and first_sample=6 .* such as 4 or 8"):
        sampler("tds").run(measured(WIDE), first_sample=6)


@pytest.mark.parametrize(("first", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_refuses_first_samples(first: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="first_sample"):
        sampler("mmps").run(measured(WIDE), first_sample=first)


class TestJoin:
    def test_refuses_overlaps_and_gaps(self) -> None:
        y, of = measured(WIDE), sampler("mmps")
        runs = {first: of.run(y, num_samples=2, first_sample=first) for first in (0, 1, 2, 4)}
        with pytest.raises(ValueError, match=r"overlap: samples 0 to 1 and samples 1 to 2.*first_sample=2"):
            Posterior.join(runs[0], runs[1])
        with pytest.raises(ValueError, match="overlap"):
            Posterior.join(runs[0], runs[0])
        with pytest.raises(
            ValueError, match=r"missing between samples 0 to 1 and samples 4 to 5.*first_sample=2, num_samples=2"
        ):
            Posterior.join(runs[4], runs[0])
        assert len(Posterior.join(runs[4], runs[2], runs[0]).samples) == 6
        assert Posterior.join(runs[2]) is runs[2]
        with pytest.raises(ValueError, match="at least one run"):
            Posterior.join()

    def test_refuses_other_runs_and_names_what_differs(self) -> None:
        y = measured(WIDE)
        one = sampler("mmps").run(y, num_samples=2)
        prior = Gaussian(torch.zeros(4).double(), torch.eye(4).double())
        others = {
            "seed: 0 and 1": (sampler("mmps"), {"seed": 1}, y),
            "method: 'mmps' and 'dps'": (sampler("dps"), {}, y),
            "rtol: .* and 0.5": (sampler("mmps", rtol=0.5), {}, y),
            r"shape: \[2, 4\] and \[1, 4\]": (sampler("mmps"), {}, y[:1]),
            "dtype": (sampler("mmps"), {}, y.float()),
            "measurement sha256": (sampler("mmps"), {}, y + 1),
            "operator": (PosteriorSampler(PRIOR, Matrix(WIDE.matrix, sigma_y=0.4), method="mmps", steps=4), {}, y),
            "prior prior: 'GaussianMixture' and 'Gaussian'": (PosteriorSampler(prior, WIDE, method="mmps", steps=4), {}, y),
        }
        for message, (of, settings, values) in others.items():
            with pytest.raises(ValueError, match=message):
                Posterior.join(one, of.run(values, first_sample=2, **settings))

    def test_refuses_parts_of_groups(self) -> None:
        y, of = measured(WIDE), sampler("tds")
        with pytest.raises(ValueError, match=r"samples 0 to 5 end within a group of 4 particles.*multiple of 4"):
            Posterior.join(of.run(y, num_samples=6), of.run(y, first_sample=8))
        assert len(Posterior.join(of.run(y, num_samples=4), of.run(y, first_sample=4, num_samples=3)).samples) == 7

    def test_weights_by_evidence(self) -> None:
        """Groups of different evidence count by it, as in one run; equal shares would be wrong."""
        y, of = measured(WIDE), sampler("tds", weighted=True)
        whole = of.run(y, num_samples=8, chunk=4)
        joined = Posterior.join(*(of.run(y, num_samples=4, first_sample=first, chunk=4) for first in (0, 4)))
        assert torch.equal(joined.weights, whole.weights)
        halves = joined.weights[:4].sum(0)
        assert ((halves - 0.5).abs() > 1e-3).all()
        assert_close(joined.weights.sum(0), torch.ones(2, dtype=torch.float64))

    def test_the_order_of_arguments_and_the_notes(self) -> None:
        y, of = measured(WIDE), sampler("mmps")
        first, second = (of.run(y, num_samples=2, first_sample=k) for k in (0, 2))
        assert_identical(Posterior.join(first, second), Posterior.join(second, first))

    def test_the_operator_of_every_item_and_its_dof(self) -> None:
        op = per_item([HALF, Mask(torch.tensor([1, 1, 1, 0]), sigma_y=0.3)])
        of, y = PosteriorSampler(PRIOR, op, method="mmps", steps=3), measured(op)
        joined = Posterior.join(of.run(y, num_samples=2), of.run(y, first_sample=2))
        assert isinstance(joined.dof, Tensor)
        assert joined.dof.tolist() == [2, 3]


def test_methods_of_ones_own_are_recorded() -> None:
    own = Method(DPS, name="mine", rule="ddim", options={"zeta": 0.5})
    post = PosteriorSampler(PRIOR, WIDE, method=own, steps=2).run(measured(WIDE))
    assert (post.method, post.options["zeta"], post.options["rule"]) == ("mine", 0.5, "ddim")
