"""Methods without gradients of the network: every case of every update rule against numbers worked out by hand."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from cases import build
from helpers import norm, randn
from stepping import posterior_mean
from stepping import step as step_of
from torch import Tensor
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.methods.denoised import Denoised, prior_mean
from invdiff.methods.guidance import DDNM, DDRM, ILVR, DDNMPlus, DiffPIR, Guidance
from invdiff.methods.samplers import SNIPS, RePaint, Sampler
from invdiff.methods.samplers.repaint import jump_path
from invdiff.methods.spectral import SpectralData
from invdiff.methods.steps import DDIM
from invdiff.operators import Downsample, Function, Mask, Matrix, Operator
from invdiff.priors import Gaussian, ScoreModel
from invdiff.random import Draw, Streams, generator
from invdiff.schedules import EDM, RectifiedFlow, time_grid

# On the straight path: alpha, sigma, ratio are 1/2, 1/2, 1 at T and 4/5, 1/5, 1/4 at S.
T, S = torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)
X0_HAT = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
X_T = torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64)
Z = torch.tensor([[0.3, -0.7, 1.1]], dtype=torch.float64)
Y = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
# Singular values 2, 1/2, 0: seen from x, the data have noise 0.1 (less than S has), 0.4 (more) and are missing.
THREE = Matrix(torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.5, 0.0]]).double(), sigma_y=0.2)
EXACT = Matrix(randn(3, 4, seed=9))


class Constant(ScoreModel):
    """A denoiser that always gives the same answer, and keeps what it was asked."""

    def __init__(self, value: Tensor) -> None:
        self.value, self.schedule, self.asked = value, RectifiedFlow(), list[tuple[Tensor, float]]()

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.asked.append((x_t, float(t)))
        return self.value.expand_as(x_t).clone()


def in_turn(*noises: Tensor) -> Draw:
    """Return a source of noise that gives ``noises`` one after the other."""
    left = list(noises)
    return lambda event: left.pop(0)


def spectral(*noises: Tensor) -> Draw:
    """Return the noise which in the coordinates of ``x`` is ``noises``, one after the other."""
    svd = THREE.svd
    assert svd is not None
    return in_turn(*(svd.analyze(z) for z in noises))


def stream(seed: int, rows: int = 1) -> Streams:
    return Streams([generator(seed, "sample", b, 0) for b in range(rows)])


def step(guidance: Guidance, draw: Draw, s: Tensor = S) -> Tensor:
    return step_of(guidance, None, X_T, T, s, draw)


class TestDDRM:
    def test_every_case(self) -> None:
        """eta = 0.6, eta_b = 0.5; y_bar = (0.5, 4); x_t / alpha_t = (4, -2, 1), so eps = (3, -4, -2)."""
        mean = torch.tensor([0.5 * 1 + 0.5 * 0.5, 2 + 0.8 * 0.25 * (4 - 2) / 0.4, 3 + 0.8 * 0.25 * -2]).double()
        std = torch.tensor([math.sqrt(0.25**2 - 0.25 * 0.1**2), 0.6 * 0.25, 0.6 * 0.25]).double()
        found = step(DDRM(Constant(X0_HAT), THREE, Y, eta=0.6, eta_b=0.5), spectral(Z))
        assert_close(found, 0.8 * (mean + std * Z))

    def test_start(self) -> None:
        guidance = DDRM(Constant(X0_HAT), THREE, Y)
        expected = torch.stack([0.5 + math.sqrt(1 - 0.01) * Z[:, 0], 4 + math.sqrt(1 - 0.16) * Z[:, 1], Z[:, 2]], 1)
        assert_close(guidance.start(T, spectral(Z)), 0.5 * expected)
        below = torch.stack([0.5 + math.sqrt(0.0625 - 0.01) * Z[:, 0], 0.25 * Z[:, 1], 0.25 * Z[:, 2]], 1)
        assert_close(guidance.start(S, spectral(Z)), 0.8 * below)

    def test_the_last_step(self) -> None:
        """Noisy data leave the denoiser's word; exact data replace it."""
        end = torch.tensor(0.0, dtype=torch.float64)
        assert_close(step(DDRM(Constant(X0_HAT), THREE, Y), spectral(Z), end), X0_HAT)
        exact = DDRM(Constant(X0_HAT), Matrix(THREE.matrix), Y)
        assert_close(step(exact, spectral(Z), end), torch.tensor([[0.5, 4.0, 3.0]]).double())


class TestDDNMPlus:
    def test_every_case(self) -> None:
        """eta = 0.6; y_bar = (0.5, 4); eps_hat of the missing one is (0.5 - 1.5) / 0.5 = -2."""
        mean = torch.tensor(
            [0.8 * 0.5, 0.8 * (2 + (0.5 * 0.2 * 0.8 / (0.8 * 0.2)) * (4 - 2)), 0.8 * 3 + 0.8 * 0.2 * -2]
        ).double()
        std = torch.tensor([math.sqrt(0.2**2 - 0.8**2 * 0.1**2), 0.6 * 0.2, 0.6 * 0.2]).double()
        assert_close(step(DDNMPlus(Constant(X0_HAT), THREE, Y, eta=0.6), spectral(Z)), mean + std * Z)

    def test_is_ddnm_for_exact_data(self) -> None:
        """But for the noise of what is measured, which is all fresh."""
        op, end = Matrix(THREE.matrix), torch.tensor(0.0, dtype=torch.float64)
        plus, plain = (method(Constant(X0_HAT), op, Y, eta=0.6) for method in (DDNMPlus, DDNM))
        assert_close(step(plus, spectral(Z), end), step(plain, in_turn(Z), end))
        assert_close(step(plus, spectral(Z))[:, 2], step(plain, in_turn(Z))[:, 2])
        assert_close(step(plus, spectral(Z))[:, :2], 0.8 * torch.tensor([[0.5, 4.0]]).double() + 0.2 * Z[:, :2])


class TestDDNM:
    op = Matrix(THREE.matrix)
    corrected = torch.tensor([[0.5, 4.0, 3.0]]).double()

    def test_step(self) -> None:
        eps_hat = torch.tensor([[3.0, -4.0, -2.0]]).double()
        assert_close((X_T - 0.5 * X0_HAT) / 0.5, eps_hat)
        expected = 0.8 * self.corrected + 0.2 * (0.8 * eps_hat + 0.6 * Z)
        guidance = DDNM(Constant(X0_HAT), self.op, Y, eta=0.6)
        assert_close(step(guidance, in_turn(Z)), expected)
        assert_close(posterior_mean(guidance, X_T, T), self.corrected)

    def test_follows_rules(self) -> None:
        found = step_of(DDNM(Constant(X0_HAT), self.op, Y), DDIM(0.0), X_T, T, S, in_turn(Z))
        assert_close(found, 0.8 * self.corrected + 0.2 * (X_T - 0.5 * self.corrected) / 0.5)

    def test_time_travel(self) -> None:
        """Down, up again by forward diffusion with variance 0.25 - (0.5 / 0.8)^2 0.04, and down."""
        first, up, second = Z, randn(1, 3, seed=1), randn(1, 3, seed=2)
        once = DDNM(Constant(X0_HAT), self.op, Y, eta=0.6)
        x_t = 0.625 * step(once, in_turn(first)) + math.sqrt(0.25 - 0.625**2 * 0.04) * up
        expected = step_of(once, None, x_t, T, S, in_turn(second))
        twice = DDNM(Constant(X0_HAT), self.op, Y, eta=0.6, travel_repeats=2)
        assert_close(step(twice, in_turn(first, up, second)), expected)
        end = torch.tensor(0.0, dtype=torch.float64)
        assert_close(step(twice, in_turn(first), end), self.corrected)  # From the last level there is no way back.


PERFECT: dict[str, Callable[[ScoreModel, Tensor], Guidance]] = {
    "ddrm": lambda score, y: DDRM(score, THREE, y, eta=0.7),
    "ddrm, eta_b": lambda score, y: DDRM(score, THREE, y, eta=0.7, eta_b=0.6),
    "ddnm+": lambda score, y: DDNMPlus(score, THREE, y, eta=0.7),
    "ddnm": lambda score, y: DDNM(score, Matrix(THREE.matrix), THREE(X0_HAT).expand_as(y), eta=0.7),
    "ddnm, travelling": lambda score, y: DDNM(
        score, Matrix(THREE.matrix), THREE(X0_HAT).expand_as(y), eta=0.7, travel_repeats=3
    ),
}


@pytest.mark.parametrize("name", PERFECT)
def test_noise_of_the_state(name: str) -> None:
    """With a perfect denoiser, whatever part of the noise comes from the data, the state has the law of its level."""
    rows = 40_000
    y = THREE(X0_HAT) + 0.2 * randn(rows, 2, seed=1)
    x_t = 0.25 * X0_HAT + 0.75 * randn(rows, 3, seed=2)
    draw = in_turn(*(randn(rows, 3, seed=seed) for seed in range(3, 9)))
    x_s = step_of(PERFECT[name](Constant(X0_HAT), y), None, x_t, torch.tensor(0.75), S, draw)
    z = (x_s - 0.8 * X0_HAT) / 0.2
    assert (z.mean(0).abs() < 4.5 / rows**0.5).all(), z.mean(0)
    assert ((z.var(0) - 1).abs() < 4.5 * (2 / rows) ** 0.5).all(), z.var(0)


class TestDiffPIR:
    def test_step(self) -> None:
        """A = 2, y = 4, x0_hat = 1, rho = 2 * 0.25 / 1: the minimiser is (2 * 4 + 0.5 * 1) / (4 + 0.5)."""
        op = Matrix(torch.tensor([[2.0]]).double(), sigma_y=0.5)
        x_t, z = torch.tensor([[2.0]]).double(), torch.tensor([[0.3]]).double()
        guidance = DiffPIR(Constant(torch.ones(1, 1).double()), op, torch.tensor([[4.0]]).double(), lam=2.0, zeta=0.36)
        x0 = 8.5 / 4.5
        assert float(posterior_mean(guidance, x_t, T)) == pytest.approx(x0)
        expected = 0.8 * x0 + 0.2 * (0.8 * (2 - 0.5 * x0) / 0.5 + 0.6 * 0.3)
        assert float(step_of(guidance, None, x_t, T, S, in_turn(z))) == pytest.approx(expected)

    def test_is_the_exact_mean_at_lambda_1(self) -> None:
        """Where x_0 given x_t is N(x0_hat, ratio^2 I), here with ratio 1/4."""
        prior = Gaussian(X0_HAT[0], torch.full((3,), 0.25**2, dtype=torch.float64))
        found = DiffPIR(Constant(X0_HAT), THREE, Y, lam=1.0).closest(X0_HAT, 0.25)
        assert_close(found, prior.posterior(THREE, Y).mean)

    def test_floor_under_the_noise(self) -> None:
        exact, floored = Matrix(THREE.matrix), Matrix(THREE.matrix, sigma_y=0.3)
        found = DiffPIR(Constant(X0_HAT), exact, Y, sigma_min=0.3).closest(X0_HAT, 0.25)
        assert_close(found, DiffPIR(Constant(X0_HAT), floored, Y).closest(X0_HAT, 0.25))

    def test_a_function_that_happens_to_be_linear(self) -> None:
        op = Function(lambda x: THREE(x), (3,), sigma_y=0.2, dtype=torch.float64)
        expected = DiffPIR(Constant(X0_HAT), THREE, Y, lam=20.0).closest(X0_HAT, 1.0)
        found = DiffPIR(Constant(X0_HAT), op, Y, lam=20.0, iterations=50).closest(X0_HAT, 1.0)
        assert_close(found, expected, rtol=1e-6, atol=1e-6)

    def test_nonlinear_minimiser(self) -> None:
        """The gradient of the objective vanishes where the descent ends, item by item."""
        op = Function(lambda x: torch.tanh(x[:, :2]), (3,), sigma_y=0.2)
        y, x0_hat = 0.5 * randn(4, 2, seed=1), randn(4, 3, seed=2)
        found = DiffPIR(Constant(X0_HAT), op, y, lam=10.0, iterations=100).closest(x0_hat, 1.0)
        rho = 10 * 0.2**2
        x = found.clone().requires_grad_()
        objective = norm(y - op(x)) ** 2 + rho * norm(x - x0_hat) ** 2
        (gradient,) = torch.autograd.grad(objective.sum(), x)
        assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)
        alone = DiffPIR(Constant(X0_HAT), op, y[2:3], lam=10.0, iterations=100).closest(x0_hat[2:3], 1.0)
        assert_close(alone[0], found[2], rtol=1e-12, atol=1e-12)

    def test_the_descent_never_rises(self) -> None:
        """Where the Gauss-Newton step overshoots by far, it is shortened."""
        op = Function(lambda x: 3 * torch.sin(7 * x), (3,), sigma_y=0.2)
        y, x0_hat, rho = randn(50, 3, seed=1), randn(50, 3, seed=2), 0.2**2

        def objective(x: Tensor) -> Tensor:
            return norm(y - op(x)) ** 2 + rho * norm(x - x0_hat) ** 2

        values = [
            objective(DiffPIR(Constant(X0_HAT), op, y, iterations=count).closest(x0_hat, 1.0)) for count in (1, 2, 4, 8, 60)
        ]
        assert all((after <= before).all() for before, after in itertools.pairwise([objective(x0_hat), *values]))
        assert (values[-1] < 0.2 * objective(x0_hat)).double().mean() > 0.9

    def test_what_is_not_finite_is_not_hidden(self) -> None:
        op = Function(lambda x: x.log(), (3,), sigma_y=0.2)
        found = DiffPIR(Constant(X0_HAT), op, randn(2, 3)).closest(torch.cat([X0_HAT, -X0_HAT]), 1.0)
        assert found[0].isfinite().all()
        assert found[1].isnan().all()


class TestILVR:
    def test_the_data_hold_at_every_level(self) -> None:
        y, x_t, z1, z2 = randn(2, 3, seed=1), randn(2, 4, seed=2), randn(2, 4, seed=3), randn(2, 4, seed=4)
        score, rule = Constant(randn(1, 4, seed=5)), DDIM(1.0)
        guidance = ILVR(score, EXACT, y)
        x_s = step_of(guidance, rule, x_t, T, S, in_turn(z1, z2))
        assert_close(EXACT(x_s), 0.8 * y + 0.2 * EXACT(z2))
        plain = rule(prior_mean, Denoised(score, x_t, T), S, z1)
        assert_close(x_s - EXACT.pinv(EXACT(x_s)), plain - EXACT.pinv(EXACT(plain)))  # The rest is as it was.


class TestRePaint:
    mask = Mask(torch.tensor([1, 0, 1, 0]))

    def test_path(self) -> None:
        assert jump_path(4, 2, 2) == [0, 1, 2, 3, 1, 2, 3, 4]
        assert jump_path(6, 2, 3) == [0, 1, 2, 3, 1, 2, 3, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 6]
        assert jump_path(5, 2, 1) == jump_path(5, 5, 9) == list(range(6))
        path = jump_path(250, 10, 10)
        assert sum(b == a + 1 for a, b in itertools.pairwise(path)) == 250 + 24 * 9 * 10
        assert (path[0], path[-1], min(path)) == (0, 250, 0)

    def test_the_known_part_is_at_the_level_of_the_state(self) -> None:
        """On the way down and after every jump, at which the network is asked as well."""
        rows, score = 1000, Constant(torch.full((1, 4), 0.5, dtype=torch.float64))
        y = self.mask(torch.tensor([[3.0, 0.0, -2.0, 0.0]]).double()).expand(rows, 4)
        times = time_grid(score.schedule, 5, ratio_max=5.0, ratio_min=0.1)
        calls: list[int] = []
        x = RePaint(score, self.mask, y, jump_length=2, passes=3).sample(
            times, streams=stream(0, rows), on_step=lambda *_: calls.append(0)
        )
        assert torch.equal(x[:, [0, 2]], y[:, [0, 2]])
        assert_close(x[:, [1, 3]], torch.full((rows, 2), 0.5, dtype=torch.float64))
        assert (len(calls), len(score.asked)) == (5, 5 + 2 * 2 * 2)  # Two places to jump from, twice each, over two levels.
        for x_t, t in score.asked[1:]:
            alpha, sigma = score.schedule(t)
            z = (x_t - alpha * y)[:, [0, 2]] / sigma
            assert abs(float(z.mean())) < 4.5 / (2 * rows) ** 0.5
            assert abs(float(z.var()) - 1) < 4.5 * (1 / rows) ** 0.5

    def test_passes_bring_the_conditional_law(self) -> None:
        """Of two numbers with correlation 0.9, given the first: mean 0.9 * 2, variance 0.19."""
        prior = Gaussian(torch.zeros(2).double(), torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double(), schedule=EDM())
        op, y = Mask(torch.tensor([1, 0])), torch.tensor([[2.0, 0.0]]).double()
        gaps = []
        for passes in (1, 8):
            post = PosteriorSampler(prior, op, method="repaint", steps=40, ratio_max=20.0, jump_length=4, passes=passes).run(
                y, num_samples=500
            )
            gaps.append(abs(float(post.mean[0, 1]) - 1.8))
        assert gaps[1] < 0.12 < 0.25 < gaps[0], gaps


@pytest.mark.parametrize("build", [lambda score, op, y: RePaint(score, op, y, jump_length=2), SNIPS], ids=["RePaint", "SNIPS"])
def test_noise_is_let_go(build: Callable[..., Sampler]) -> None:
    """Thousands of draws are made, each of the size of the image."""
    drawn: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    class Watched(Streams):
        def normal(self, event: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
            noise = super().normal(event, dtype=dtype).clone()
            drawn.append(weakref.ref(noise))
            return noise

    op, score = TestRePaint.mask, Constant(torch.zeros(1, 4, dtype=torch.float64))
    times = time_grid(score.schedule, 8, ratio_max=5.0, ratio_min=0.1)
    sampler = build(score, op, op(randn(1, 4)))
    sampler.sample(
        times,
        streams=Watched([generator(0, "sample", 0, 0)]),
        on_step=lambda *_: alive.append(sum(n() is not None for n in drawn)),
    )
    assert len(drawn) > 20
    assert max(alive) <= 2


class TestSNIPS:
    @pytest.mark.parametrize(("t", "alpha", "ratio"), [(T, 0.5, 1.0), (S, 0.8, 0.25)])
    def test_start_and_step(self, t: Tensor, alpha: float, ratio: float) -> None:
        """One Langevin step with the score of each case, at levels above both noises and between them."""
        c, score, draws = 0.1, Constant(X0_HAT), stream(0)
        svd = THREE.svd
        assert svd is not None
        z0, z1 = (svd.synthesize(draws.normal((3,), dtype=torch.float64)) for _ in range(2))
        times = torch.stack([t, torch.zeros_like(t)])
        end = SNIPS(score, THREE, Y, corrections=1, step=c).sample(times, streams=stream(0), on_step=lambda *_: None)

        y_bar, start, moved = (0.5, 4.0), [], []
        for i, noise in enumerate((0.1, 0.4, math.inf)):
            z = float(z0[0, i])
            start.append(y_bar[i] + math.sqrt(ratio**2 - noise**2) * z if ratio > noise else ratio * z)
            prior_score = (float(X0_HAT[0, i]) - start[i]) / ratio**2
            if noise == math.inf:
                g, a = prior_score, ratio**2
            elif ratio > noise:
                g, a = (y_bar[i] - start[i]) / (ratio**2 - noise**2), ratio**2 - noise**2
            else:
                g = prior_score + (y_bar[i] - start[i]) / (noise**2 - ratio**2)
                a = ratio**2 * (1 - ratio**2 / noise**2)
            moved.append(start[i] + c * a * g + math.sqrt(2 * c * a) * float(z1[0, i]))
        assert [t for _, t in score.asked] == [float(t)] * 2
        assert_close(score.asked[0][0], alpha * torch.tensor([start]).double())
        assert_close(score.asked[1][0], alpha * torch.tensor([moved]).double())
        last = torch.tensor([[0.5, 4.0, 3.0]] if ratio == 1 else [[0.5, 2.0, 3.0]]).double()
        assert_close(end, last)

    def test_samples_a_gaussian_posterior(self) -> None:
        root = randn(3, 3, seed=1) / 2
        prior = Gaussian(randn(3, seed=2), root @ root.mT + 0.2 * torch.eye(3), schedule=EDM())
        op = Matrix(randn(2, 3, seed=3), sigma_y=0.3)
        y = op.measure(prior.sample(2, seed=4), seed=5)
        settings: dict[str, Any] = {"steps": 60, "corrections": 20, "step": 0.08, "ratio_max": 10.0, "ratio_min": 0.03}
        post = PosteriorSampler(prior, op, method="snips", **settings).run(y[:1], num_samples=2000)
        exact, other = prior.posterior(op, y[:1]), prior.posterior(op, y[1:])
        variance = exact.covariance().diagonal()
        z, z_other = ((post.mean[0] - e.mean[0]).abs() / (variance / 2000).sqrt() for e in (exact, other))
        assert z.max() < 4.5 < 20 < z_other.max()
        ratio = post.std[0] ** 2 / variance
        assert ((ratio > 0.88) & (ratio < 1.2)).all(), ratio


@pytest.mark.parametrize("method", ["ddnm", "ddnm+", "ddrm", "ilvr", "snips", "repaint"])
def test_exact_data_are_met(method: str) -> None:
    stationary = build(Gaussian)[2]
    ops: Sequence[Operator] = [Mask(torch.arange(48).reshape(1, 6, 8) % 3 == 0)]
    if method != "repaint":
        ops = [*ops, Downsample((1, 6, 8), 2, kernel="bicubic")]
    for op in ops:
        y = op(stationary.sample(2, seed=1))
        post = PosteriorSampler(stationary, op, method=method, steps=6).run(y, num_samples=2)
        assert_close(op(post.samples.flatten(0, 1)), y.repeat(2, 1, 1, 1), rtol=1e-9, atol=1e-9)


def test_spectral_data() -> None:
    data = SpectralData(THREE, Y)
    assert_close(data.svd.synthesize(data.y_bar), torch.tensor([[0.5, 4.0, 0.0]]).double())
    assert_close(data.noise, torch.tensor([0.1, 0.4, math.inf]).double())
    assert data.measured.tolist() == [True, True, False]
    with pytest.raises(ValueError, match="decomposition of Function is not known"):
        SpectralData(Function(torch.tanh, (3,)), Y)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DDNM(Constant(X0_HAT), EXACT, Y, eta=1.1), "eta <= 1 and travel_repeats >= 1, got 1.1 and 1"),
        (lambda: DDNM(Constant(X0_HAT), EXACT, Y, travel_repeats=0), "got 0.85 and 0"),
        (lambda: DDNMPlus(Constant(X0_HAT), THREE, Y, eta=-0.1), "eta must lie in .0, 1., got -0.1"),
        (lambda: DDRM(Constant(X0_HAT), THREE, Y, eta=2.0), "got 2.0 and 1.0"),
        (lambda: DDRM(Constant(X0_HAT), THREE, Y, eta_b=-1.0), "got 0.85 and -1.0"),
        (lambda: DiffPIR(Constant(X0_HAT), THREE, Y, lam=0.0), "lam > 0.*got 0.0"),
        (lambda: DiffPIR(Constant(X0_HAT), THREE, Y, zeta=1.5), "zeta <= 1.*1.5"),
        (lambda: DiffPIR(Constant(X0_HAT), THREE, Y, sigma_min=0.0), "sigma_min > 0"),
        (lambda: DiffPIR(Constant(X0_HAT), THREE, Y, iterations=0), "iterations >= 1"),
        (lambda: RePaint(Constant(X0_HAT), Mask(torch.tensor([1, 0])), Y, jump_length=0), "at least 1, got 0 and 10"),
        (lambda: RePaint(Constant(X0_HAT), Mask(torch.tensor([1, 0])), Y, passes=0), "at least 1, got 10 and 0"),
        (lambda: SNIPS(Constant(X0_HAT), THREE, Y, corrections=0), "corrections >= 1.*got 0"),
        (lambda: SNIPS(Constant(X0_HAT), THREE, Y, step=1.0), "0 < step < 1, got 5 and 1.0"),
    ],
)
def test_options_are_checked(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
