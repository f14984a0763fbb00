"""Laws of guidance, step rules and posterior samples: every method with every rule, then each against small numbers."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from cases import build
from helpers import norm, randn
from latent_problem import decoded_for
from stepping import posterior_mean, step
from torch import Tensor
from torch.testing import assert_close

from invdiff import DivergenceError, Posterior, PosteriorSampler
from invdiff.linalg import dense_matrix
from invdiff.methods import METHODS, RULES, Method
from invdiff.methods.denoised import Denoised, prior_mean
from invdiff.methods.guidance import DPS, MMPS, ConditionalDenoiser, Correction, Guidance, PiGDM, Transition
from invdiff.methods.particles import ParticleMethod
from invdiff.methods.steps import DDIM, Heun, reverse_diffusion
from invdiff.methods.steps.reverse import advance, unguided_step
from invdiff.operators import Downsample, Function, Identity, LinearFunction, LinearOperator, Mask, Matrix, Operator
from invdiff.posterior.choice import choose_method
from invdiff.presets import PRESETS
from invdiff.priors import Gaussian, GaussianMixture, ScoreModel, from_network
from invdiff.random import Draw, Draws, Streams, generator
from invdiff.schedules import EDM, VP, RectifiedFlow, Schedule, time_grid

pytestmark = [
    pytest.mark.slow,  # every method, over and over
    # Few steps, and published methods that fit the data loosely or fit its noise.
    pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning"),
]

MIXTURE = build(GaussianMixture)[0]
WIDE = Matrix(randn(3, 4, seed=9), sigma_y=0.2)
TANH = Function(lambda x: torch.tanh(x[:, :3]), (4,), sigma_y=0.2)
EXACT = Matrix(randn(3, 4, seed=9))
HALF = Mask(torch.tensor([1, 0, 1, 0]))

# No method, but what every method is held against: it ignores the measurement.
CONTROL = "unconditional"
# Step sizes that suit the mixture: what the paper tunes for pictures.
TUNED: dict[str, dict[str, Any]] = {"dps": {"zeta": 0.5}}
# Guided softly, at the noisy state or by draws: exact data are approached, not met.
SOFT = {"dps", "psld", "flow-dps", "pnp-flow", "red-diff", "unconditional"}


def rules_of(name: str) -> list[str | None]:
    """Return every rule a method admits, its own step being ``None``."""
    algorithm = METHODS[name].algorithm
    if not issubclass(algorithm, Guidance):
        return [None]
    # Draws that take a prior whose error was measured have tests of their own.
    draws = algorithm.can_draw and name not in ("exact-score", "handover")
    rules: list[str | None] = [rule for rule in RULES if METHODS[name].follows_rules and (draws or rule != "matched")]
    return [None, *rules] if algorithm.own_step else rules


def suitable(name: str) -> Operator:
    """Return a measurement which has what a method needs."""
    needs = METHODS[name].needs
    return HALF if {"mask", "inpainting"} & set(needs) else EXACT if "exact" in needs else decoded_for(name, WIDE)


def sampler(
    method: str | Method, rule: str | None = None, *, op: Operator | None = None, steps: int = 8, **options: Any
) -> PosteriorSampler:
    op = op or (suitable(method) if isinstance(method, str) and method in METHODS else WIDE)
    return PosteriorSampler(MIXTURE, op, method=method, rule=rule, steps=steps, **options)


def measured(op: Operator = WIDE, *, items: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return op.measure(MIXTURE.sample(items, seed=1), seed=2).to(dtype)


def group(name: str) -> int:
    """Return how many samples a method draws together."""
    op = suitable(name)
    return sampler(name).plan(1).group(MIXTURE, op, measured(op, items=1))


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_seeds(self, method: str) -> None:
        y = measured(suitable(method))
        first = sampler(method).run(y, num_samples=2, seed=0)
        assert torch.equal(first.samples, sampler(method).run(y, num_samples=2, seed=0).samples)
        same = torch.isclose(first.samples, sampler(method).run(y, num_samples=2, seed=1).samples, rtol=1e-9, atol=1e-9)
        assert not same.all(-1).any()
        if group(method) == 1:  # Particles of a group may be twins.
            assert not torch.isclose(first.samples[0], first.samples[1], rtol=1e-9, atol=1e-9).all(-1).any()

    def test_items_samples_and_chunks_do_not_mix(self, method: str) -> None:
        y = measured(suitable(method))
        y[1] *= 30  # One item that is far harder than its neighbours.
        whole = sampler(method).run(y, num_samples=5)
        few = sampler(method).run(y, num_samples=2)
        assert_close(few.samples, whole.samples[:2], rtol=1e-8, atol=1e-8)
        for chunk in (1, 3, 100):
            parts = sampler(method).run(y, num_samples=2, chunk=chunk)
            assert_close(parts.samples, few.samples, rtol=1e-8, atol=1e-8)
            assert_close(parts.weights, few.weights)
            if group(method) == 1:  # A resampling costs its group another evaluation.
                assert (parts.nfe, parts.nvjp) == (few.nfe, few.nvjp)
        alone = sampler(method).run(y[:1], num_samples=2)
        assert_close(alone.samples[:, 0], few.samples[:, 0], rtol=1e-8, atol=1e-8)
        assert_close(alone.residual[:, 0], few.residual[:, 0], rtol=1e-8, atol=1e-8)

    def test_dtype_and_arguments(self, method: str) -> None:
        op = suitable(method)
        for dtype in (torch.float32, torch.float64):
            y = measured(op, dtype=dtype)
            post = sampler(method).run(y, num_samples=2)
            assert {post.samples.dtype, post.weights.dtype, post.residual.dtype, post.mean.dtype, post.std.dtype} == {dtype}
            assert torch.equal(y, measured(op, dtype=dtype))
            assert not post.samples.requires_grad
        assert sampler(method).run(measured(op).to(torch.float16)).samples.dtype == torch.float32

    def test_in_inference_mode(self, method: str) -> None:
        y = measured(suitable(method))
        expected = sampler(method).run(y).samples
        with torch.inference_mode():
            assert_close(sampler(method).run(y.clone()).samples, expected)

    def test_what_comes_back(self, method: str) -> None:
        op = suitable(method)
        y = measured(op)
        post = sampler(method).run(y, num_samples=5, seed=3)
        assert post.samples.shape == (5, 3, 4)
        assert post.samples.isfinite().all()
        assert post.weights.shape == post.residual.shape == (5, 3)
        assert_close(post.weights.sum(0), torch.ones(3, dtype=y.dtype))
        misfit = torch.stack([((y - op(x)) ** 2).sum(1) for x in post.samples])
        assert_close(post.residual, misfit / (op.sigma_y**2 or 1))
        assert (post.method, post.seed, post.dof, post.options["steps"]) == (method, 3, op.dof, 8)
        assert post.ess.shape == (3,)
        assert (post.particles is None) == (not issubclass(METHODS[method].algorithm, ParticleMethod))

    def test_the_measurement_counts(self, method: str) -> None:
        op = suitable(method)
        y = measured(op, items=1)
        options = TUNED.get(method, {})
        here, there = (sampler(method, steps=40, **options).run(v, num_samples=20) for v in (y, op.keep_measured(y + 3)))
        moved = op(there.mean - here.mean)[0][op.keep_measured(torch.ones(1, *op.out_shape))[0] > 0]
        if method == CONTROL:
            assert torch.equal(here.samples, there.samples)
        else:
            assert (moved > 0.5).all(), moved

    def test_nonlinear_operators(self, method: str) -> None:
        if {"linear", "svd", "mask", "latent", "inpainting"} & set(METHODS[method].needs):
            with pytest.raises(ValueError, match=r"needs a.*, got Function.*Use|needs.*got Function"):
                sampler(method, op=TANH)
            return
        op = Function(TANH.function, (4,)) if "exact" in METHODS[method].needs else TANH
        y = measured(op)
        post = sampler(method, op=op).run(y, num_samples=2)
        assert post.samples.isfinite().all()
        alone = sampler(method, op=op).run(y[:1], num_samples=2)
        assert_close(alone.samples[:, 0], post.samples[:, 0], rtol=1e-8, atol=1e-8)

    def test_exact_data(self, method: str) -> None:
        if "noise" in METHODS[method].needs:
            with pytest.raises(ValueError, match=r"needs noise in the measurement.*got Mask with sigma_y = 0"):
                sampler(method, op=HALF)
            return
        op = decoded_for(method, HALF)
        y = op(MIXTURE.sample(2, seed=1))
        y[1] *= 10
        post = sampler(method, op=op, steps=30).run(y, num_samples=3)
        assert post.samples.isfinite().all()
        if method not in SOFT:
            assert_close(op(post.samples.flatten(0, 1)), y.repeat(3, 1), rtol=1e-2, atol=1e-2)
        alone = sampler(method, op=op, steps=30).run(y[:1], num_samples=3)
        assert_close(alone.samples[:, 0], post.samples[:, 0], rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("schedule", [EDM(), RectifiedFlow()], ids=["EDM", "RectifiedFlow"])
    def test_other_schedules(self, method: str, schedule: Schedule) -> None:
        """The same levels on another path give the same law: means agree within their Monte Carlo errors."""
        op, options = suitable(method), TUNED.get(method, {})
        y, posts = measured(op, items=1), []
        for path in (VP(), schedule):
            prior = GaussianMixture(MIXTURE.weights, MIXTURE.means, MIXTURE.covs, schedule=path)
            settings = {"steps": 12, "ratio_max": 50.0, "ratio_min": 0.02, **options}
            posts.append(PosteriorSampler(prior, op, method=method, **settings).run(y, num_samples=64))
        error = ((posts[0].std ** 2 + posts[1].std ** 2) / 64).sqrt() + 1e-3
        slack = 5 if group(method) == 1 else 12  # Particles of a group are relatives.
        assert ((posts[0].mean - posts[1].mean).abs() < slack * error).all()


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if "exact" in method.needs])
def test_noise_where_exact_data_are_needed(method: str) -> None:
    with pytest.raises(ValueError, match=r"needs exact data.*got Mask with sigma_y = 0.1"):
        sampler(method, op=Mask(HALF.mask, sigma_y=0.1))


def with_rules(names: Iterable[str]) -> Any:
    """Run a test for every rule that each of these methods admits."""
    return pytest.mark.parametrize(("method", "rule"), [pytest.param(m, r, id=f"{m}-{r}") for m in names for r in rules_of(m)])


@with_rules(METHODS)
class TestEveryRule:
    def test_runs_and_counts_the_measurement(self, method: str, rule: str | None) -> None:
        op, options = suitable(method), TUNED.get(method, {})
        y = measured(op, items=1)
        here, there = (sampler(method, rule, steps=30, **options).run(v, num_samples=8) for v in (y, op.keep_measured(y + 3)))
        assert here.samples.isfinite().all()
        assert here.options["rule"] == (rule or sampler(method).plan(1).rule_name)
        assert (method == CONTROL) == torch.equal(here.samples, there.samples)


@with_rules(name for name, method in METHODS.items() if issubclass(method.algorithm, Guidance))
def test_back_off_leads_towards_a_step_that_has_not_seen_the_measurement(method: str, rule: str | None) -> None:
    """By the same rule, DDPM's for a step of one's own, and with the same noise."""
    algorithm, op, y = METHODS[method].algorithm, suitable(method), measured(suitable(method))
    t, s = MIXTURE.schedule.time(torch.tensor([0.7, 0.4]).double())
    x_t, chosen = randn(3, 4, seed=3), None if rule is None else RULES[rule]

    def both(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        guidance = algorithm(MIXTURE, op, v)
        assert isinstance(guidance, Guidance)
        draw = Draws(Streams([generator(0, "sample", b, 0) for b in range(3)]), torch.float64)
        at = guidance.at(x_t, t)
        guided, _ = advance(guidance, chosen, at, s, draw)
        assert draw.first is not None
        return guided, unguided_step(chosen, at, s, draw), draw.first

    (guided, unguided, noise), (other, same, _) = both(y), both(op.keep_measured(y + 3))
    assert torch.equal(unguided, same)
    assert_close(unguided, RULES[rule or "ddpm"](prior_mean, Denoised(MIXTURE, x_t, t), s, noise))
    assert (method == CONTROL) == torch.equal(guided, other)
    assert (method == CONTROL) == torch.equal(guided, unguided)


def test_rules_that_do_not_fit() -> None:
    for name, method in METHODS.items():
        if not method.follows_rules:
            with pytest.raises(ValueError, match=f"{re.escape(repr(name))} takes no step rule"):
                sampler(name, "ddpm")
        elif "matched" not in rules_of(name):
            lacking = f"follows draws of x_0, and {re.escape(repr(name))} has only its mean|whose error was measured"
            with pytest.raises(ValueError, match=lacking):
                sampler(name, "matched")
    with pytest.raises(ValueError, match="'mine' has no step of its own: give it a rule"):
        sampler(Method(MMPS, name="mine"))


class TestCounts:
    """Evaluations and products per sample, over 7 steps."""

    @pytest.mark.parametrize(
        ("method", "rule", "nfe", "nvjp"),
        [
            ("mmps", "ddpm", 7, 7 * 3),
            ("mmps", "heun", 13, 13 * 3),
            ("mmps", "matched", 7, 7 * (4 + 3)),  # A square root of 4 numbers by their 4 unit vectors.
            ("pigdm", "ddim", 7, 7),
            ("pigdm", "heun", 13, 7),
            ("dps", "ddpm", 7, 7),
            ("dps", "heun", 13, 7),  # The corrector needs no gradient.
        ],
    )
    def test_chains(self, method: str, rule: str, nfe: int, nvjp: int) -> None:
        post = sampler(method, rule, steps=7).run(measured(), num_samples=2)
        assert (post.nfe, post.nvjp) == (nfe, nvjp)

    def test_particles(self) -> None:
        """A state that is not resampled is evaluated once: V by 4 unit vectors, fewer than 6 for each of 3 + 1 functions."""
        prior = build(Gaussian)[0]
        op = Matrix(randn(3, 6), sigma_y=0.2)
        post = PosteriorSampler(prior, op, method="mm-tsmc", steps=7).run(op.measure(prior.sample(1, seed=1), seed=2))
        assert (post.nfe, post.nvjp) == (16 * 7, 16 * 7 * 6)  # The sixteen particles behind one sample.


# Guidance against exact conditional means.


def exact_mean(prior: Gaussian, op: LinearOperator, y: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Return ``E[x_0 | x_t, y]`` by stacking both measurements of ``x_0`` into one."""
    alpha, sigma = prior.schedule(t)
    cov, mean = prior.covariance(), prior.mean.flatten()
    matrix = dense_matrix(op.forward, op.in_shape, dtype=torch.float64, device=torch.device("cpu"))
    both = torch.cat([matrix, alpha * torch.eye(len(mean), dtype=torch.float64)])
    variances = torch.ones(len(both), dtype=torch.float64) * sigma**2
    variances[: len(matrix)] = op.sigma_y**2
    gain = torch.linalg.solve(both @ cov @ both.mT + variances.diag(), both @ cov).mT
    seen = torch.cat([y.flatten(1), x_t.flatten(1)], 1)
    return (mean + (seen - both @ mean) @ gain.mT).reshape(x_t.shape)


def exact_cases() -> list[Any]:
    dense, diagonal, stationary = build(Gaussian)
    ops: list[tuple[Gaussian, LinearOperator]] = [
        (dense, Matrix(randn(4, 6, seed=3), sigma_y=0.3)),
        (diagonal, Mask(torch.tensor([[1, 0, 1], [0, 1, 1]]), sigma_y=0.3)),
        (stationary, Downsample((1, 6, 8), 2, sigma_y=0.1)),
        (stationary, Mask(torch.arange(48).reshape(1, 6, 8) % 3 == 0, sigma_y=0.1)),
    ]
    return [pytest.param(prior, op, id=f"{prior._basis}-{type(op).__name__}") for prior, op in ops]


@pytest.mark.parametrize(("prior", "op"), exact_cases())
@pytest.mark.parametrize("ratio", [0.03, 0.5, 20.0])
def test_mmps_is_exact_for_gaussians(prior: Gaussian, op: LinearOperator, ratio: float) -> None:
    """By eigenvectors and iteratively, for vectors and for images."""
    t = prior.schedule.time(ratio)
    alpha, sigma = prior.schedule(t)
    y = op.measure(prior.sample(3, seed=1), seed=2)
    x_t = alpha * prior.sample(3, seed=3) + sigma * randn(3, *op.in_shape, seed=4)
    expected = exact_mean(prior, op, y, x_t, t)
    dense = MMPS(prior, op, y, exact_up_to=1000)
    iterative = MMPS(prior, op, y, exact_up_to=0, rtol=1e-12, max_iterations=500)
    assert_close(posterior_mean(dense, x_t, t), expected, rtol=1e-8, atol=1e-8)
    assert_close(posterior_mean(iterative, x_t, t), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("variance", [1.0, 0.3])
@pytest.mark.parametrize("sigma_y", [0.3, 0.0])
def test_pigdm_is_exact_for_white_priors(variance: float, sigma_y: float) -> None:
    prior = Gaussian(torch.zeros(1, 4, 6, dtype=torch.float64), torch.full((1, 4, 6), variance, dtype=torch.float64))
    op = Downsample((1, 4, 6), 2, kernel="bicubic", sigma_y=sigma_y)
    t = prior.schedule.time(0.7)
    y, x_t = op.measure(prior.sample(3, seed=1), seed=2), randn(3, 1, 4, 6, seed=4)
    found = posterior_mean(PiGDM(prior, op, y, data_std=variance**0.5, consistent=True), x_t, t)
    assert_close(found, exact_mean(prior, op, y, x_t, t), rtol=1e-8, atol=1e-8)


def test_mmps_linearizes() -> None:
    """A function that happens to be linear gives what the matrix gives."""
    op = Function(lambda x: WIDE(x), (4,), sigma_y=0.2, dtype=torch.float64)
    y, x_t, t = measured(), randn(3, 4, seed=4), MIXTURE.schedule.time(0.7)
    expected = posterior_mean(MMPS(MIXTURE, WIDE, y), x_t, t)
    assert_close(posterior_mean(MMPS(MIXTURE, op, y), x_t, t), expected)
    rough = posterior_mean(MMPS(MIXTURE, op, y, exact_up_to=0, rtol=1e-10, max_iterations=50), x_t, t)
    assert_close(rough, expected, rtol=1e-7, atol=1e-7)


def test_mmps_keeps_items_apart_where_data_are_exact() -> None:
    """The floor under small eigenvalues is that of the item, however large its neighbour's are."""
    op = Matrix(torch.tensor([[1.0, 0, 0, 0], [1, 1e-4, 0, 0]]))
    prior = from_network(lambda x, t: torch.cat([x[:1], 1e6 * x[1:]]), EDM(), predicts="x0")
    y, x_t, t = randn(2, 2), randn(2, 4, seed=1), torch.tensor(0.5)
    together = posterior_mean(MMPS(prior, op, y), x_t, t)
    assert_close(posterior_mean(MMPS(prior, op, y[:1]), x_t[:1], t)[0], together[0], rtol=1e-9, atol=1e-9)


def test_misfit_gradient_of_dps() -> None:
    y, x_t, t = measured(), randn(3, 4, seed=4), MIXTURE.schedule.time(0.7)
    x = x_t.clone().requires_grad_()
    misfit = norm(y - WIDE(MIXTURE.denoise(x, t)))
    (expected,) = torch.autograd.grad(misfit.sum(), x)
    dps = DPS(MIXTURE, WIDE, y)
    assert_close(dps.misfit_gradient(dps.at(x_t, t)), expected)
    y[1] = WIDE(MIXTURE.denoise(x_t, t))[1]  # A perfect fit is not moved.
    dps = DPS(MIXTURE, WIDE, y)
    assert (dps.misfit_gradient(dps.at(x_t, t))[1] == 0).all()


def test_dps_means_the_same_on_every_schedule() -> None:
    """The step size of the paper belongs to variance-preserving states; other schedules are scaled to them."""
    y, samples = measured(items=1), []
    for schedule in (VP(), EDM(), RectifiedFlow()):
        prior = GaussianMixture(MIXTURE.weights, MIXTURE.means, MIXTURE.covs, schedule=schedule)
        dps = PosteriorSampler(prior, WIDE, method="dps", steps=20, ratio_max=50.0, ratio_min=0.01, zeta=0.3)
        samples.append(dps.run(y).samples)
    assert_close(samples[1], samples[2], rtol=1e-6, atol=1e-6)
    assert_close(samples[0], samples[2], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_what_a_mask_leaves_out_is_not_looked_at(method: str) -> None:
    op = HALF if "exact" in METHODS[method].needs else decoded_for(method, Mask(HALF.mask, sigma_y=0.2))
    y = measured(op)
    expected = sampler(method, op=op).run(y)
    for junk in (7.0, float("nan")):
        post = sampler(method, op=op).run(torch.where(HALF.mask, y, junk))
        assert torch.equal(post.samples, expected.samples)
        assert torch.equal(post.residual, expected.residual)


def test_operators_that_hold_tensors_of_one_dtype() -> None:
    weight = randn(9, 4, dtype=torch.float32)
    op = LinearFunction(lambda x: x @ weight.mT, (4,), sigma_y=0.2)
    assert PosteriorSampler(MIXTURE, op, steps=3).run(randn(2, 9, dtype=torch.float32)).samples.isfinite().all()


def test_exact_posteriors_are_no_priors() -> None:
    with pytest.raises(ValueError, match="a different distribution for every item"):
        PosteriorSampler(MIXTURE.posterior(WIDE, measured()), WIDE)


@pytest.mark.parametrize("sigma_y", [0.3, 0.0])
def test_pigdm_corrects_after_the_step_as_published(sigma_y: float) -> None:
    """By alpha_s alpha_t J^T A^T (A A^T + sigma_y^2 / r^2)^-1 (y - A x0_hat), r^2 = sigma_t^2 on a path of variance one."""
    op = Matrix(randn(3, 4, seed=9), sigma_y=sigma_y)
    y, x_t, noise = measured(op), randn(3, 4, seed=4), randn(3, 4, seed=5)
    t, s = MIXTURE.schedule.time(0.7), MIXTURE.schedule.time(0.5)
    (alpha_t, sigma_t), (alpha_s, _) = MIXTURE.schedule(t), MIXTURE.schedule(s)
    x = x_t.clone().requires_grad_()
    gram = sigma_t**2 * op.matrix @ op.matrix.mT + sigma_y**2 * torch.eye(3)
    x0_hat = MIXTURE.denoise(x, t)
    back = torch.linalg.solve(gram, (y - op(x0_hat.detach())).mT).mT @ op.matrix
    (h,) = torch.autograd.grad(x0_hat, x, sigma_t**2 * back)
    plain = DDIM(1.0)(prior_mean, Denoised(MIXTURE, x_t, t), s, noise)
    found = step(PiGDM(MIXTURE, op, y), DDIM(1.0), x_t, t, s, lambda event: noise)
    assert_close(found, plain + alpha_s * alpha_t * h)
    consistent = PiGDM(MIXTURE, op, y, consistent=True)
    followed = DDIM(1.0)(consistent.posterior_mean, consistent.at(x_t, t), s, noise)
    assert_close(step(consistent, DDIM(1.0), x_t, t, s, lambda event: noise), followed)


def test_dps_corrects_after_the_step() -> None:
    y, x_t, noise = measured(), randn(3, 4, seed=4), randn(3, 4, seed=5)
    t, s = MIXTURE.schedule.time(0.7), MIXTURE.schedule.time(0.5)
    guidance, rule = DPS(MIXTURE, WIDE, y, zeta=0.3), DDIM(eta=1.0)
    plain = rule(prior_mean, Denoised(MIXTURE, x_t, t), s, noise)
    gradient = guidance.misfit_gradient(guidance.at(x_t, t))
    assert_close(step(guidance, rule, x_t, t, s, lambda event: noise), plain - 0.3 * gradient)


# Step rules against numbers worked out by hand.

SCALAR = torch.tensor([[2.0]], dtype=torch.float64)


def state(x_t: Tensor, t: Tensor, schedule: Schedule) -> Denoised:
    """Return a state of which only its levels count."""
    return Denoised(from_network(lambda x, time: x, schedule, predicts="x0"), x_t, t)


class TestStepRules:
    def test_ddim(self) -> None:
        """alpha = 0.6, sigma = 0.8 to alpha = 0.8, sigma = 0.6, with x0_hat = 1: eps_hat = (2 - 0.6) / 0.8 = 1.75."""
        schedule = VP()
        t, s = schedule.time(0.8 / 0.6), schedule.time(0.6 / 0.8)
        noise = torch.tensor([[-0.5]], dtype=torch.float64)

        def mean(at: Denoised) -> Tensor:
            return torch.ones_like(at.x_t)

        found = {eta: float(DDIM(eta)(mean, state(SCALAR, t, schedule), s, noise)) for eta in (0.0, 0.5, 1.0)}
        kept = (0.6 * 0.6 / (0.8 * 0.8)) ** 2
        for eta, value in found.items():
            fresh = eta * 0.6 * math.sqrt(1 - kept)
            assert value == pytest.approx(0.8 + math.sqrt(0.36 - fresh**2) * 1.75 + fresh * -0.5, rel=1e-12)
        assert found[0.0] == pytest.approx(0.8 + 0.6 * 1.75)

    def test_heun(self) -> None:
        """x0_hat = z / 2 makes the slope z / (2 ratio): at z = 2 from ratio 1 to 1/2, Euler gives 1.5 and Heun 1.375."""
        found = Heun()(lambda at: at.x_t / 2, state(SCALAR, torch.tensor(1.0), EDM()), torch.tensor(0.5), SCALAR)
        assert float(found) == pytest.approx(2 - 0.5 * (1 + 1.5) / 2)

    def test_heun_on_another_path_is_the_same_step(self) -> None:
        exact, flow = build(Gaussian)[0], RectifiedFlow()
        x = randn(2, 6)
        t, s = (flow.time(r) for r in (1.0, 0.5))
        straight = Gaussian(exact.mean, exact.covariance(), schedule=flow)
        exploding = Gaussian(exact.mean, exact.covariance(), schedule=EDM())
        one = Heun()(prior_mean, Denoised(straight, x * flow(t)[0], t), s, x)
        other = Heun()(prior_mean, Denoised(exploding, x, torch.tensor(1.0)), torch.tensor(0.5), x)
        assert_close(one / flow(s)[0], other)

    @pytest.mark.parametrize("rule", RULES)
    def test_the_last_step_returns_the_mean(self, rule: str) -> None:
        x, noise = randn(2, 6), 1e3 * randn(2, 6, seed=1)
        for schedule in (VP(), EDM()):
            t, s = schedule.time(torch.tensor([0.3, 0.0], dtype=torch.float64))
            found = RULES[rule](lambda at: torch.tanh(at.x_t), state(x, t, schedule), s, noise)
            assert_close(found, torch.tanh(x))

    @pytest.mark.parametrize(("rule", "order"), [("ddim", 1), ("heun", 2)])
    def test_order_of_convergence(self, rule: str, order: int) -> None:
        """Of N(0, v) the probability-flow ODE is solved by z ~ sqrt(v + ratio^2)."""
        prior = Gaussian(torch.zeros(1, dtype=torch.float64), torch.full((1,), 0.25, dtype=torch.float64), schedule=EDM())
        start, stop = 5.0, 0.1
        exact = math.sqrt((0.25 + stop**2) / (0.25 + start**2))
        errors = []
        for steps in (20, 40):
            x = torch.ones(1, 1, dtype=torch.float64)
            times = time_grid(EDM(), steps + 1, ratio_min=stop, ratio_max=start)[:-1]
            for t, s in itertools.pairwise(times):
                x = RULES[rule](prior_mean, Denoised(prior, x, t), s, x)
            errors.append(abs(float(x) - exact))
        assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)

    @pytest.mark.parametrize("rule", RULES)
    def test_items_are_independent(self, rule: str) -> None:
        x, noise, (t, s) = randn(3, 4), randn(3, 4, seed=1), MIXTURE.schedule.time(torch.tensor([0.7, 0.4]).double())
        together = RULES[rule](prior_mean, Denoised(MIXTURE, x, t), s, noise)
        alone = RULES[rule](prior_mean, Denoised(MIXTURE, x[1:2], t), s, noise[1:2])
        assert_close(together[1:2], alone)

    @pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
    def test_refuses_eta(self, eta: float) -> None:
        with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\]"):
            DDIM(eta)

    def test_names(self) -> None:
        assert [repr(rule) for rule in RULES.values()] == ["DDIM(eta=1)", "DDIM(eta=0)", "Heun()", "Matched()"]
        assert sampler("mmps", DDIM(0.5), steps=3).run(measured()).options["rule"] == "DDIM(eta=0.5)"  # type: ignore[arg-type]


# What happens when a step goes wrong.


class Shaken(Transition, ConditionalDenoiser):
    """A guidance that goes wrong at one step, for one row: by a distance, or for good."""

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, far: float = 0.0) -> None:
        super().__init__(score, op, y)
        self.far, self.calls = far, 0

    def posterior_mean(self, at: Denoised) -> Tensor:
        return at.x0_hat

    def transition(self, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        x_s = DDIM(1.0)(prior_mean, at, s, draw(at.x_t.shape[1:])).clone()
        self.calls += 1
        if 0.4 < at.ratio < 0.6:
            x_s[1] += self.far
        return x_s


GRID = MIXTURE.schedule.time(torch.tensor([3.0, 1.0, 0.5, 0.2, 0.0], dtype=torch.float64))


def shaken(far: float) -> tuple[list[Tensor], Shaken]:
    """Return the states after every step, and the guidance."""
    guidance, states = Shaken(MIXTURE, WIDE, measured(), far=far), list[Tensor]()
    streams = Streams([generator(0, "sample", b, 0) for b in range(3)])
    reverse_diffusion(guidance, GRID, rule=None, streams=streams, on_step=lambda x, _: states.append(x))  # type: ignore[arg-type]
    return states, guidance


class TestDivergence:
    @pytest.mark.parametrize(("far", "strength"), [(1.5e4, 0.5), (3e4, 0.25), (6e4, 0.125), (-1.5e4, 0.5)])
    def test_a_lost_item_is_moved_back_as_little_as_it_takes(self, far: float, strength: float) -> None:
        """Along the line to the unguided step; the others stay as they are, and no step is computed again."""
        calm, _ = shaken(0.0)
        bound = 1e4 * (1 + float(MIXTURE.schedule(GRID[3])[1]))
        assert abs(far) * strength < bound < abs(far) * 2 * strength
        moved, guidance = shaken(far)
        assert guidance.calls == 4
        expected = calm[2].clone()
        expected[1] += strength * far
        assert_close(moved[2], expected)
        for one, other in zip(moved, calm, strict=True):
            assert_close(one[[0, 2]], other[[0, 2]])

    @pytest.mark.parametrize("far", [math.nan, math.inf, -1e9])
    def test_gives_up_and_names_the_step_and_the_row(self, far: float) -> None:
        with pytest.raises(DivergenceError, match="step 3, row 1") as error:
            shaken(far)
        assert (error.value.step, error.value.row) == (3, 1)

    def test_backing_off_takes_no_noise_from_the_others(self) -> None:
        """Rows whose neighbour is lost draw what they would have drawn without it, also where the step itself draws nothing."""

        class Still(Shaken):
            def transition(self, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
                return super().transition(at, s, lambda event: torch.zeros_like(at.x_t))

        found = []
        for far in (0.0, 1.5e4):
            streams = Streams([generator(0, "sample", b, 0) for b in range(3)])
            reverse_diffusion(Still(MIXTURE, WIDE, measured(), far=far), GRID, rule=None, streams=streams)
            found.append(streams.normal((4,), dtype=torch.float64))
        assert torch.equal(*found)

    @pytest.mark.parametrize("method", ["mmps", "dps"])
    def test_a_measurement_that_is_never_finite_is_an_error(self, method: str) -> None:
        op = Function(lambda x: 1 / (x - x), (4,), sigma_y=0.2)
        with pytest.raises(DivergenceError, match=f"{method}: sample 0 of item 0 diverged at step 1 of 8"):
            sampler(method, op=op).run(torch.zeros(1, 4))
        large = Function(lambda x: (1e3 + x).exp(), tuple(range(12, 13)), sigma_y=0.2)
        prior = Gaussian(torch.zeros(12), torch.ones(12))
        with pytest.raises(DivergenceError, match=f"{method}: sample 0 of item 0 diverged at step 1 of 8"):
            PosteriorSampler(prior, large, method=method, steps=8).run(torch.zeros(1, 12))

    def test_huge_steps_of_dps_name_the_item(self) -> None:
        y = measured()
        y[:2] = WIDE(MIXTURE.means[:2])
        with pytest.raises(DivergenceError, match=r"dps: sample 0 of item \d diverged at step \d+ of 8.*smaller step size"):
            sampler("dps", zeta=1e7).run(y)

    def test_the_item_and_sample_named_are_the_right_ones(self) -> None:
        class Picky(Correction):
            def correct(self, x_s: Tensor, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
                return torch.where(self.y[:, :1] > 50, math.nan, x_s)

        y = measured()
        y[2, 0] = 100
        with pytest.raises(DivergenceError, match="picky: sample 0 of item 2 diverged at step 1 of 8"):
            sampler(Method(Picky, name="picky", rule="ddpm")).run(y, num_samples=3, chunk=2)


# Posterior: statistics, errors, grids.


def posterior(weights: Tensor) -> Posterior:
    samples = randn(*weights.shape, 2, 4)
    return Posterior(samples, weights, weights, 3, 1.0, 1.0, 0.0, "none", 0, {})


class TestPosterior:
    def test_equal_weights_against_numpy(self) -> None:
        post = posterior(torch.full((7, 3), 1 / 7, dtype=torch.float64))
        x = post.samples.numpy()
        assert_close(post.mean.numpy(), x.mean(0))
        assert_close(post.std.numpy(), x.std(0, ddof=1))
        assert_close(post.ess, torch.full((3,), 7.0, dtype=torch.float64))
        for q in (0.0, 0.05, 0.5, 0.61, 1.0):
            assert_close(post.quantile(q).numpy(), np.quantile(x, q, axis=0))

    def test_unequal_weights_against_numpy(self) -> None:
        weights = torch.rand(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(0)
        post = posterior(weights)
        x, w = post.samples.numpy(), weights.numpy()
        for b in range(3):
            mean = np.average(x[:, b], axis=0, weights=w[:, b])
            spread = np.average((x[:, b] - mean) ** 2, axis=0, weights=w[:, b])
            assert_close(post.mean[b].numpy(), mean)
            assert_close(post.std[b].numpy(), np.sqrt(spread / (1 - (w[:, b] ** 2).sum())))
            assert float(post.ess[b]) == pytest.approx(1 / (w[:, b] ** 2).sum())
            for q in (0.05, 0.5, 0.9):
                expected = np.quantile(x[:, b], q, axis=0, weights=w[:, b], method="inverted_cdf")
                assert_close(post.quantile(q)[b].numpy(), expected)

    def test_one_sample_has_no_spread(self) -> None:
        post = posterior(torch.ones(1, 3, dtype=torch.float64))
        assert post.std.isnan().all()
        assert_close(post.quantile(0.3), post.samples[0])

    @pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
    def test_refuses_quantiles(self, q: float) -> None:
        with pytest.raises(ValueError, match="q must lie in"):
            posterior(torch.full((2, 3), 0.5)).quantile(q)

    def test_is_frozen_and_compares_by_identity(self) -> None:
        one, other = (posterior(torch.full((2, 3), 0.5)) for _ in range(2))
        assert {one: 1, other: 2}[one] == 1
        with pytest.raises(AttributeError):
            one.seed = 3  # type: ignore[misc]

    def test_exact_data_report_the_misfit_itself(self) -> None:
        op = Matrix(WIDE.matrix)
        y = measured(op)
        post = sampler("mmps", op=op).run(y)
        assert_close(post.residual[0], norm(y - op(post.samples[0])) ** 2)

    def test_dof_counts_measured_values_alone(self) -> None:
        op = Mask(torch.tensor([1, 0, 1, 0]), sigma_y=0.3)
        assert sampler("mmps", op=op).run(measured(op)).dof == 2


class TestErrors:
    @pytest.mark.parametrize(
        ("y", "message"),
        [
            (torch.zeros(3), r"must have shape \(B, 3\), got \(3,\)\. Add the batch axis"),
            (torch.zeros(2, 4), r"must have shape \(B, 3\), got \(2, 4\)"),
            (torch.zeros(0, 3), r"got \(0, 3\)"),
            (torch.tensor([[0.0, torch.nan, 0]]), "finite"),
            (torch.tensor([[0.0, torch.inf, 0]]), "finite"),
            (torch.zeros(1, 3, dtype=torch.complex64), "real"),
        ],
    )
    def test_measurement(self, y: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            sampler("mmps").run(y)

    def test_measurement_of_another_kind(self) -> None:
        with pytest.raises(TypeError, match="y must be a tensor, got ndarray"):
            sampler("mmps").run(np.zeros((1, 3)))  # type: ignore[arg-type]

    @pytest.mark.parametrize("counts", [{"num_samples": 0}, {"num_samples": -1}, {"chunk": 0}])
    def test_counts(self, counts: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            sampler("mmps").run(measured(), **counts)  # type: ignore[arg-type]

    def test_seed(self) -> None:
        with pytest.raises(ValueError, match="seed must be a non-negative integer"):
            sampler("mmps").run(measured(), seed=-1)

    @pytest.mark.parametrize(
        ("build", "error", "message"),
        [
            (lambda: sampler("mmps", steps=0), ValueError, "steps must be at least 1, got 0"),
            (lambda: sampler("best"), ValueError, "Unknown method 'best', expected one of auto, mmps"),
            (lambda: sampler("mpms"), ValueError, "Did you mean 'mmps'?"),
            (lambda: sampler(3), TypeError, "must be a name, a Method or the class of an algorithm, got int"),  # type: ignore[arg-type]
            (lambda: sampler(float), TypeError, "expected a Method, or a class derived from"),  # type: ignore[arg-type]
            (lambda: sampler("mmps", "euler"), ValueError, "Unknown step rule 'euler', expected one of ddpm"),
            (lambda: sampler("mmps", 3), TypeError, "rule must be a name or a step rule, got int"),  # type: ignore[arg-type]
            (lambda: sampler("mmps", spacing="sqrt"), ValueError, "unknown spacing 'sqrt'"),
            (lambda: sampler("mmps", "dppm"), ValueError, "Unknown step rule 'dppm'.*Did you mean 'ddpm'?"),
            (
                lambda: sampler("mmps", zeta=1.0),
                TypeError,
                r"method 'mmps' has no option 'zeta'\. It takes rtol=0.01, max_iter",
            ),
            (
                lambda: sampler("dps", zetta=1.0),
                TypeError,
                r"has no option 'zetta'\. Did you mean 'zeta'\? It takes zeta=1.0\.",
            ),
            (lambda: sampler("ilvr", zeta=1.0), TypeError, "has no option 'zeta'. It takes none"),
            (lambda: sampler("dps", zeta="much"), TypeError, "method 'dps': zeta must be a number, such as 1.0, got 'much'"),
            (
                lambda: sampler("handover", rato=1.0),
                TypeError,
                "Did you mean 'ratio'?.* ratio=1.0, rounds=1, rtol=0.01, max_iter",
            ),
            (lambda: sampler("handover", products=1.5), TypeError, "products must be a whole number, got 1.5"),
            (lambda: sampler("mmps", rtol=0.0), ValueError, "rtol"),
            (lambda: sampler("mmps", max_iterations=0), ValueError, "max_iterations"),
            (lambda: sampler("mmps", max_iterations=2.5), TypeError, "max_iterations must be a whole number, got 2.5"),
            (lambda: sampler("pigdm", data_std=0.0), ValueError, "data_std must be positive"),
            (lambda: sampler("dps", zeta=-1.0), ValueError, "zeta must not be negative"),
            (lambda: sampler("dps", zeta=math.nan), ValueError, "zeta must not be negative"),
            (lambda: sampler("mmps", ratio_max=0.0), ValueError, "ratio_m"),
            (lambda: sampler("mmps", ratio_min=-1.0), ValueError, "ratio_min"),
            (lambda: sampler("mmps", op=Identity((5,))), ValueError, r"prior is for items of shape \(4,\).*\(5,\)"),
            (lambda: sampler("mmps", op=Identity((1, 4))), ValueError, "prior is for items of shape"),
        ],
    )
    def test_settings(self, build: Callable[[], Any], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            build()

    def test_free_axes_of_a_prior_fit_any_size(self) -> None:
        prior = from_network(lambda x, t: x, EDM(), predicts="x0", event_shape=(3, None, None))
        PosteriorSampler(prior, Identity((3, 5, 7)))
        with pytest.raises(ValueError, match=r"\(3, 'any', 'any'\).*\(2, 5, 7\)"):
            PosteriorSampler(prior, Identity((2, 5, 7)))


class TestChoice:
    @pytest.mark.parametrize(
        ("op", "num_samples", "settings", "expected"),
        [
            (WIDE, 1, {}, "mmps"),
            (WIDE, 15, {}, "mmps"),
            (WIDE, 16, {}, "mm-tsmc"),
            (WIDE, 16, {"rule": "heun"}, "mmps"),  # A rule and options are those of a single chain.
            (WIDE, 16, {"rtol": 1e-3}, "mmps"),
            (WIDE, 16, {"steps": 5, "spacing": "vp"}, "mm-tsmc"),
            (TANH, 1, {}, "mm-tsmc"),
            (TANH, 1, {"rule": "ddpm"}, "mmps"),
            (WIDE, 16, {"budget": 0}, "mmps"),
            (TANH, 1, {"budget": 0}, "mmps"),
            (Matrix(randn(9, 4), sigma_y=0.2), 16, {}, "mm-tsmc"),
            (Function(lambda x: torch.cat([x, x, x**2], 1), (4,), sigma_y=0.2), 16, {}, "mm-tsmc"),
        ],
    )
    def test_auto(self, op: Operator, num_samples: int, settings: dict[str, Any], expected: str) -> None:
        only_chain = "a rule is given" if "rule" in settings else ""
        assert choose_method("auto", op, num_samples=num_samples, only_chain=only_chain).method.name in METHODS
        post = sampler("auto", op=op, **{"steps": 3, **settings}).run(measured(op), num_samples=num_samples)
        assert post.method == expected
        assert len(post.samples) == num_samples
        if op is TANH and expected == "mm-tsmc":
            assert post.options["particles"] == 64

    def test_auto_has_no_paper(self) -> None:
        with pytest.raises(ValueError, match="preset='paper' needs an explicit method, got method='auto'"):
            sampler("auto", preset="paper")

    @pytest.mark.parametrize("method", PRESETS)
    def test_presets(self, method: str) -> None:
        """Every one has a source, runs on a measurement of its kind, and gives way to what is said beside it."""
        kinds: dict[str, Operator] = {"mask": HALF, "other": WIDE, "nonlinear": TANH}
        for kind, preset in PRESETS[method].items():
            assert preset.source
            op = kinds.get(kind) or (suitable(method) if kind == "any" else None)
            if op is None or (op is HALF and "noise" in METHODS[method].needs):
                continue
            built = sampler(method, op=op, steps=None, preset="paper")  # type: ignore[arg-type]
            plan = built.plan(1)
            for name, value in preset.settings.items():
                assert getattr(plan, name, plan.options.get(name)) == value or name in ("rule", "ratio_max", "ratio_min")
            assert sampler(method, op=op, steps=3, preset="paper").plan(1).steps == 3

    def test_presets_that_are_not_there(self) -> None:
        with pytest.raises(ValueError, match="no published settings are available for method 'mmps'"):
            sampler("mmps", preset="paper")
        with pytest.raises(ValueError, match=r"the published settings of 'dps' are for mask, .* only, not for other"):
            sampler("dps", preset="paper")
        with pytest.raises(ValueError, match="Unknown preset 'best'"):
            sampler("dps", preset="best")

    def test_a_method_of_ones_own(self) -> None:
        own = Method(DPS, name="mine", rule="ddim", steps=5, spacing="karras", options={"zeta": 0.5})
        post = PosteriorSampler(MIXTURE, WIDE, method=own).run(measured())
        assert (post.method, post.options["steps"], post.options["zeta"], post.nfe) == ("mine", 5, 0.5, 5)
        assert PosteriorSampler(MIXTURE, WIDE, method=own, zeta=0.1).run(measured()).options["zeta"] == 0.1

    @pytest.mark.parametrize("method", METHODS)
    def test_every_method_is_documented(self, method: str) -> None:
        entry = METHODS[method]
        assert entry.name == method
        assert entry.summary
        assert entry.paper
        assert "References" in str(entry.algorithm.__doc__)
        assert "Cost" in str(entry.algorithm.__doc__)


class TestGrid:
    def ratios(self, op: Operator, **options: Any) -> Tensor:
        return MIXTURE.schedule.ratio(PosteriorSampler(MIXTURE, op, steps=30, **options).plan(1).times)

    @pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
    def test_the_smallest_ratio_is_a_tenth_of_the_noise_seen_from_x(self, scale: float) -> None:
        op = Matrix(scale * WIDE.matrix, sigma_y=0.2)
        gain = float(torch.linalg.matrix_norm(op.matrix, 2))
        assert float(self.ratios(op)[-2]) == pytest.approx(max(0.02 / gain, float(MIXTURE.schedule.ratio(1e-5))), rel=0.03)

    def test_never_below_the_schedule_nor_above_a_tenth_of_the_start(self) -> None:
        assert float(self.ratios(Matrix(WIDE.matrix))[-2]) == pytest.approx(float(MIXTURE.schedule.ratio(1e-5)))
        assert float(self.ratios(Identity((4,), sigma_y=1e6), ratio_max=5.0)[-2]) == pytest.approx(0.5)

    def test_own_ratios(self) -> None:
        ratios = self.ratios(WIDE, ratio_min=0.01, ratio_max=3.0, spacing="uniform")
        assert_close(ratios[[0, -2]], torch.tensor([3.0, 0.01], dtype=torch.float64))
        post = sampler("mmps", ratio_min=0.01, ratio_max=3.0).run(measured())
        assert (post.options["ratio_min"], post.options["ratio_max"]) == pytest.approx((0.01, 3.0))

    def test_one_step_is_the_posterior_mean_from_noise(self) -> None:
        prior = build(Gaussian)[0]
        op = Matrix(randn(3, 6), sigma_y=0.2)
        y = op.measure(prior.sample(1, seed=1), seed=2)
        post = PosteriorSampler(prior, op, steps=1, method="mmps", rule="ddpm").run(y)
        assert_close(post.samples[0], prior.posterior(op, y).mean, rtol=1e-1, atol=5e-2)
