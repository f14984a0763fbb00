"""Likelihood scores against dense formulas, against automatic differentiation, and each against its own claim of exactness."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from cases import build
from helpers import norm, randn
from stepping import posterior_mean, step
from torch import Tensor
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.methods.guidance import DMPS, DPS, LGDMC, MCG, MMPS, SDA, TMPD, ConditionalDenoiser, DPSGaussian, PiGDM, ScoreALD
from invdiff.methods.step_limit import limit_step
from invdiff.methods.steps import DDIM
from invdiff.operators import Function, LinearOperator, Mask, Matrix
from invdiff.priors import Gaussian, GaussianMixture, from_network
from invdiff.random import Draw
from invdiff.schedules import EDM, VP, RectifiedFlow, Schedule

WIDE = Matrix(randn(3, 4, seed=9), sigma_y=0.2)
TANH = Function(lambda x: torch.tanh(x[:, :3]), (4,), sigma_y=0.2, dtype=torch.float64)
SCHEDULES = pytest.mark.parametrize("schedule", [VP(), EDM(), RectifiedFlow()], ids=lambda s: type(s).__name__)


def eye(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


def dense_prior(schedule: Schedule) -> Gaussian:
    root = randn(4, 4, seed=5) / 2
    return Gaussian(randn(4, seed=6), root @ root.mT + 0.1 * eye(4), schedule=schedule)


def moments(prior: Gaussian, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the covariance of ``x_0`` given ``x_t``, by matrices."""
    (alpha, sigma), cov = prior.schedule(t), prior.covariance()
    gain = alpha * cov @ torch.linalg.inv(alpha**2 * cov + sigma**2 * eye(len(cov)))
    return prior.mean.flatten() + (x_t.flatten(1) - alpha * prior.mean.flatten()) @ gain.mT, cov - alpha * gain @ cov


def exact_mean(prior: Gaussian, matrix: Tensor, sigma_y: float, y: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    mean, cov = moments(prior, x_t, t)
    bracket = matrix @ cov @ matrix.mT + sigma_y**2 * eye(len(matrix))
    posterior: Tensor = mean + (y - mean @ matrix.mT) @ torch.linalg.solve(bracket, matrix @ cov)
    return posterior


def dense_shift(name: str, prior: Gaussian, y: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Return the shift of the posterior mean that the paper's formula says, for ``WIDE``."""
    (mean, cov), (alpha, sigma), a, noise = moments(prior, x_t, t), prior.schedule(t), WIDE.matrix, WIDE.sigma_y**2
    ratio, residual, residual_t = sigma / alpha, y - mean @ a.mT, y - x_t @ a.mT / alpha
    gram = a @ a.mT
    if name == "sda":
        return residual / (noise + 0.3 * ratio**2) @ a @ cov
    if name == "tmpd":
        return residual / (noise + (a @ cov @ a.mT).sum(1).clamp(min=0)) @ a @ cov
    if name == "dps-gaussian":
        return residual / noise @ a @ cov
    if name == "dmps":
        w: Tensor = torch.linalg.solve(noise * eye(3) + ratio**2 * gram, residual_t.mT).mT
        return 1.75 * ratio**2 * w @ a
    largest = float(torch.linalg.matrix_norm(a, 2)) ** 2
    return ratio**2 * residual_t / (noise + 0.9**2 * largest * ratio**2) @ a


LINEAR: dict[str, Callable[..., ConditionalDenoiser]] = {
    "sda": lambda *args: SDA(*args, gamma=0.3),
    "tmpd": TMPD,
    "dps-gaussian": DPSGaussian,
    "dmps": lambda *args: DMPS(*args, weight=1.75),
    "score-ald": lambda *args: ScoreALD(*args, gamma=0.9),
}


@SCHEDULES
@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("ratio", [0.05, 0.7, 12.0])
def test_posterior_means_are_the_formulas(name: str, schedule: Schedule, ratio: float) -> None:
    prior, t = dense_prior(schedule), schedule.time(ratio)
    y, x_t = randn(3, 3, seed=1), prior.schedule(t)[0] * (randn(3, 4, seed=2) + ratio * randn(3, 4, seed=3))
    expected = moments(prior, x_t, t)[0] + dense_shift(name, prior, y, x_t, t)
    found = posterior_mean(LINEAR[name](prior, WIDE, y), x_t, t)
    assert_close(found, expected, rtol=1e-4 if name == "score-ald" else 1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["sda", "dps-gaussian", "lgd-mc"])
@pytest.mark.parametrize("op", [WIDE, TANH], ids=["linear", "nonlinear"])
def test_shifts_are_gradients_of_the_log_likelihood(name: str, op: Any) -> None:
    prior, t = build(GaussianMixture)[0], VP().time(0.7)
    (alpha, sigma), y, z = VP()(t), randn(3, 3, seed=1), randn(3, 5, 4, seed=7)
    x_t = randn(3, 4, seed=2).requires_grad_()
    x0_hat = prior.denoise(x_t, t)
    if name == "lgd-mc":
        r = math.sqrt(0.49 * 0.25 / (0.49 + 0.25))
        each = [-((y - op(x0_hat + r * z[:, i])) ** 2).sum(1) / (2 * 0.2**2) for i in range(5)]
        log_p = torch.stack(each).logsumexp(0) - math.log(5)
        guidance = LGDMC(prior, op, y, draws=5, data_std=0.5)
        shift = guidance.shift(guidance.at(x_t, t), z)
    else:
        variance = 0.2**2 + (0.3 * 0.7**2 if name == "sda" else 0)
        log_p = -((y - op(x0_hat)) ** 2).sum(1) / (2 * variance)
        shift = posterior_mean(LINEAR[name](prior, op, y), x_t, t) - x0_hat.detach()
    (gradient,) = torch.autograd.grad(log_p.sum(), x_t)
    assert_close(shift, sigma**2 / alpha * gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("guidance", [TMPD, ScoreALD])
def test_nonlinear_operators_are_linearised(guidance: Any) -> None:
    """At the denoised state by TMPD, at the noisy one by score-ALD: the tangent there gives the same."""
    prior, t, y, x_t = dense_prior(VP()), VP().time(0.7), randn(1, 3, seed=1), randn(1, 4, seed=2)
    at = moments(prior, x_t, t)[0] if guidance is TMPD else x_t / VP()(t)[0]
    slopes = 1 - torch.tanh(at[0, :3]) ** 2
    tangent = Matrix(torch.cat([slopes.diag(), torch.zeros(3, 1, dtype=torch.float64)], 1), sigma_y=0.2)
    same_residual = y - TANH(at) + tangent(at)
    # Score-ALD measures gamma in units of the norm of a linear operator.
    options = {} if guidance is TMPD else {"gamma": 1 / ScoreALD(prior, tangent, y).scale}
    expected = posterior_mean(guidance(prior, tangent, same_residual, **options), x_t, t)
    assert_close(posterior_mean(guidance(prior, TANH, y), x_t, t), expected, rtol=1e-9, atol=1e-9)


# What each claims to be exact for.


@pytest.mark.parametrize("sigma_y", [0.3, 0.0])
@pytest.mark.parametrize("ratio", [0.05, 0.7, 12.0])
def test_tmpd_is_exact_for_diagonal_covariances(sigma_y: float, ratio: float) -> None:
    prior = build(Gaussian)[1]
    op, t = Mask(torch.tensor([[1, 0, 1], [0, 1, 1]]), sigma_y=sigma_y), prior.schedule.time(ratio)
    y, x_t = op.measure(prior.sample(3, seed=1), seed=2), randn(3, 2, 3, seed=3)
    matrix = eye(6)[op.mask.flatten()]
    expected = exact_mean(prior, matrix, sigma_y, y.flatten(1)[:, op.mask.flatten()], x_t, t)
    assert_close(posterior_mean(TMPD(prior, op, y), x_t, t).flatten(1), expected, rtol=1e-9, atol=1e-9)


def test_tmpd_raises_negative_row_sums_to_zero() -> None:
    """Rows 1 and -3 of one number: A V A^T has the rows (1, -3) and (-3, 9) times v, which sum to -2 v and 6 v."""
    prior = Gaussian(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64), schedule=EDM())
    x_t, t = torch.full((1, 1), 0.8, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    v, x0_hat, y = 0.2, 0.64, torch.tensor([[1.0, 2.0]], dtype=torch.float64)  # v = 0.25 / 1.25, x0_hat = 0.8 / 1.25
    noisy, exact = (Matrix(torch.tensor([[1.0], [-3.0]]), sigma_y=sigma_y) for sigma_y in (0.3, 0.0))
    first, second = v * (1 - x0_hat), -3 * v * (2 + 3 * x0_hat)
    found = posterior_mean(TMPD(prior, noisy, y), x_t, t)
    assert float(found) == pytest.approx(x0_hat + first / 0.09 + second / (0.09 + 1.2), abs=1e-6)
    assert float(posterior_mean(TMPD(prior, exact, y), x_t, t)) == pytest.approx(x0_hat + second / 1.2, abs=1e-6)


def test_tmpd_does_not_follow_what_has_neither_noise_nor_variance() -> None:
    prior = Gaussian(torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64))
    x_t, t = randn(1, 2), prior.schedule.time(0.5)
    found = posterior_mean(TMPD(prior, Mask(torch.tensor([1, 1])), torch.ones(1, 2, dtype=torch.float64)), x_t, t)
    assert_close(found, torch.tensor([[1.0, 0.0]], dtype=torch.float64))


def orthogonal(scale: float, sigma_y: float) -> Matrix:
    return Matrix(scale * torch.linalg.qr(randn(4, 4, seed=8))[0][:2], sigma_y=sigma_y)


@pytest.mark.parametrize("ratio", [1e-4, 0.7, 12.0])
def test_sda_is_exact_where_the_covariance_is_isotropic(ratio: float) -> None:
    """For a white prior at one level, with gamma = c v / (v + ratio^2); for any prior at low noise, with gamma = c."""
    v, op, t = 0.6, orthogonal(1.5, 0.2), EDM().time(ratio)
    y, x_t = randn(3, 2, seed=1), randn(3, 4, seed=2)
    white = Gaussian(torch.zeros(4).double(), v * torch.ones(4).double(), schedule=EDM())
    gamma = 1.5**2 * v / (v + ratio**2)
    expected = exact_mean(white, op.matrix, 0.2, y, x_t, t)
    assert_close(posterior_mean(SDA(white, op, y, gamma=gamma), x_t, t), expected, rtol=1e-9, atol=1e-9)
    if ratio < 1e-3:
        prior = dense_prior(EDM())
        shift = exact_mean(prior, op.matrix, 0.2, y, x_t, t) - moments(prior, x_t, t)[0]
        found = posterior_mean(SDA(prior, op, y, gamma=1.5**2), x_t, t) - prior.denoise(x_t, t)
        assert_close(found, shift, rtol=1e-5, atol=1e-14)


@pytest.mark.parametrize("ratio", [0.05, 0.7, 12.0])
@pytest.mark.parametrize("sigma_y", [0.2, 0.0])
def test_jacobian_free_scores_are_exact_for_flat_priors(ratio: float, sigma_y: float) -> None:
    """DMPS for any operator; score-ALD for rows that are orthogonal and equally long."""
    t, x_t = VP().time(ratio), randn(3, 4, seed=2)
    flat = Gaussian(torch.zeros(4).double(), 1e9 * torch.ones(4).double())
    for guidance, op in ((DMPS, Matrix(WIDE.matrix, sigma_y=sigma_y)), (ScoreALD, orthogonal(1.5, sigma_y))):
        y = randn(3, op.out_shape[0], seed=1)
        expected = exact_mean(flat, op.matrix, sigma_y, y, x_t, t)
        assert_close(posterior_mean(guidance(flat, op, y), x_t, t), expected, rtol=1e-5, atol=1e-5)


class TestLGDMC:
    def test_without_spread_it_is_the_gaussian_likelihood(self) -> None:
        prior, t, y, x_t = dense_prior(VP()), VP().time(0.7), randn(3, 3, seed=1), randn(3, 4, seed=2)
        guidance = LGDMC(prior, WIDE, y, data_std=1e-9)
        shift = guidance.shift(guidance.at(x_t, t), randn(3, 10, 4, seed=3))
        assert_close(shift, dense_shift("dps-gaussian", prior, y, x_t, t), rtol=1e-6, atol=1e-6)

    def test_many_draws_are_exact_where_the_spread_is_right(self) -> None:
        v, t, rows = 0.6, VP().time(0.7), 64
        prior = Gaussian(torch.zeros(4).double(), v * torch.ones(4).double())
        op = Matrix(randn(2, 4, seed=9), sigma_y=0.5)
        y, x_t = randn(1, 2, seed=1).expand(rows, 2), randn(1, 4, seed=2).expand(rows, 4)
        guidance = LGDMC(prior, op, y, data_std=v**0.5)
        shift = guidance.shift(guidance.at(x_t, t), randn(rows, 5000, 4, seed=3))
        exact = PiGDM(prior, op, y, data_std=v**0.5, consistent=True)
        expected = posterior_mean(exact, x_t, t)[0] - prior.denoise(x_t, t)[0]
        z = (shift.mean(0) - expected) / (shift.std(0) / rows**0.5)
        assert z.abs().max() < 4.5
        assert (shift.std(0) / rows**0.5 < 0.02 * norm(expected[None])).all()  # Narrow enough to tell.

    def test_every_call_of_a_step_has_draws_of_its_own(self) -> None:
        calls: list[Sequence[int]] = []

        def draw(event: Sequence[int]) -> Tensor:
            calls.append(tuple(event))
            return randn(2, *event, seed=len(calls))

        prior, (t, s) = dense_prior(VP()), VP().time(torch.tensor([0.7, 0.5], dtype=torch.float64))
        guidance, x_t = LGDMC(prior, WIDE, randn(2, 3), draws=3), randn(2, 4, seed=2)
        step(guidance, DDIM(0.5), x_t, t, s, draw)
        assert calls == [(4,), (3, 4)]


# Steps.


def test_dps_does_not_hide_a_misfit_that_is_not_finite() -> None:
    """It moves nothing where the misfit is zero, and only there."""
    op, y = Function(lambda x: x.log(), (4,), sigma_y=0.2), torch.zeros(3, 4, dtype=torch.float64)
    prior = from_network(lambda x, t: x, EDM(), predicts="x0")
    x_t = torch.tensor([[1.0], [2.0], [-1.0]], dtype=torch.float64).expand(3, 4)
    guidance = DPS(prior, op, y)
    gradient = guidance.misfit_gradient(guidance.at(x_t, torch.tensor(0.5)))
    assert_close(gradient[:2], torch.tensor([[0.0], [0.25]], dtype=torch.float64).expand(2, 4))  # (log 2 / 2) / (2 log 2)
    assert gradient[2].isnan().all()


def given(*noise: Tensor) -> Draw:
    left = list(noise)
    return lambda event: left.pop(0)


class TestMCG:
    @SCHEDULES
    def test_step_is_that_of_dps_and_a_projection(self, schedule: Schedule) -> None:
        prior, (t, s) = dense_prior(schedule), schedule.time(torch.tensor([0.7, 0.4], dtype=torch.float64))
        y, x_t, noise, z = randn(3, 3, seed=1), randn(3, 4, seed=2), randn(3, 4, seed=3), randn(3, 4, seed=4)
        found = step(MCG(prior, WIDE, y, zeta=0.3), DDIM(1.0), x_t, t, s, given(noise, z))
        moved = step(DPS(prior, WIDE, y, zeta=0.3), DDIM(1.0), x_t, t, s, given(noise))
        alpha_s, sigma_s = schedule(s)
        y_s = alpha_s * y + sigma_s * z @ WIDE.matrix.mT
        assert_close(found, moved + (y_s - moved @ WIDE.matrix.mT) @ torch.linalg.pinv(WIDE.matrix).mT)
        assert_close(WIDE(found), y_s)

    def test_exact_data_are_met(self) -> None:
        prior, op = dense_prior(VP()), Matrix(WIDE.matrix)
        y = op(prior.sample(2, seed=1))
        samples = PosteriorSampler(prior, op, method="mcg", steps=30, zeta=0.3).run(y).samples[0]
        assert_close(op(samples), y)


class TestLimitStep:
    def test_small_case(self) -> None:
        op = Matrix(torch.tensor([[2.0]], dtype=torch.float64))
        shift, residual = (torch.tensor(v, dtype=torch.float64)[:, None] for v in ([8.0, -8.0, 1.0, 0.0], [4.0, 4.0, 4.0, 0.0]))
        # Half of the shift changes the measurement by 8, 8, 1 and 0.
        held = limit_step(shift, op, residual, share=0.5)
        assert_close(held, torch.tensor([[4.0], [-4.0], [1.0], [0.0]], dtype=torch.float64))

    def test_items_are_independent_and_what_is_not_finite_stays(self) -> None:
        shift, residual, x = 100 * randn(3, 4), randn(3, 3, seed=1), randn(3, 4, seed=2)
        shift[2, 0] = math.nan
        held = limit_step(shift, TANH.jacobian(x), residual, share=0.9)
        assert_close(limit_step(shift[1:2], TANH.jacobian(x[1:2]), residual[1:2], share=0.9), held[1:2])
        assert held[2, 0].isnan()
        assert_close(norm(TANH.jacobian(x)(held))[:2], norm(residual)[:2] / 0.9)

    @pytest.mark.parametrize("guidance", [DPSGaussian, LGDMC])
    def test_small_steps_are_the_bare_method_and_large_ones_do_not_overshoot(self, guidance: Any) -> None:
        prior, y, x_t, t = dense_prior(EDM()), randn(3, 3, seed=1), randn(3, 4, seed=2), torch.tensor(0.7, dtype=torch.float64)
        noise, z, method = randn(3, 4, seed=3), randn(3, 10, 4, seed=4), guidance(prior, WIDE, y)
        x0_hat = prior.denoise(x_t, t)
        bare = method.shift(method.at(x_t, t), z) if guidance is LGDMC else posterior_mean(method, x_t, t) - x0_hat

        found = step(method, DDIM(0.0), x_t, t, 0.9999 * t, given(noise, z))
        assert_close(found, 0.9999 * x_t + 1e-4 * (x0_hat + bare), rtol=1e-9, atol=1e-9)

        found = step(method, DDIM(0.0), x_t, t, 0 * t, given(noise, z))
        assert (norm(WIDE(bare)) > 2 * norm(y - WIDE(x0_hat))).any()  # The bare method would.
        assert (norm(WIDE(found - x0_hat)) < 1.001 * norm(y - WIDE(x0_hat))).all()


def test_scores_that_know_the_covariance_are_nearer_to_the_truth() -> None:
    """The order of approximations, on a Gaussian: exact, isotropic, point mass."""
    prior, t = dense_prior(VP()), VP().time(0.7)
    y, x_t = WIDE.measure(prior.sample(50, seed=1), seed=2), randn(50, 4, seed=3)
    expected = exact_mean(prior, WIDE.matrix, 0.2, y, x_t, t)
    errors = [float(norm(posterior_mean(g(prior, WIDE, y), x_t, t) - expected).mean()) for g in (MMPS, SDA, DPSGaussian)]
    assert errors[0] < 1e-8 < errors[1] < errors[2]


@pytest.mark.filterwarnings("ignore::invdiff.posterior.MisfitWarning")  # it ignores the data
class TestUnconditional:
    def test_is_the_prior(self) -> None:
        prior = dense_prior(VP())
        y = randn(2, 3, seed=1)
        samples = PosteriorSampler(prior, WIDE, method="unconditional", rule="ddim", steps=20).run(y, num_samples=2).samples
        others = PosteriorSampler(prior, WIDE, method="unconditional", rule="ddim", steps=20).run(y + 9, num_samples=2).samples
        assert torch.equal(samples, others)

    def test_moments(self) -> None:
        prior = dense_prior(VP())
        y = torch.zeros(1, 3, dtype=torch.float64)
        samples = PosteriorSampler(prior, WIDE, method="unconditional", steps=50).run(y, num_samples=1000).samples[:, 0]
        variance = prior.covariance().diagonal()
        assert ((samples.mean(0) - prior.mean) / (variance / 1000).sqrt()).abs().max() < 4.5
        assert ((samples.var(0) / variance - 1).abs() < 0.2).all()


@pytest.mark.parametrize(
    ("guidance", "options"),
    [
        (SDA, {"gamma": 0.0}),
        (SDA, {"gamma": math.nan}),
        (ScoreALD, {"gamma": -1.0}),
        (DMPS, {"weight": -1.0}),
        (MCG, {"zeta": math.nan}),
        (LGDMC, {"draws": 0}),
        (LGDMC, {"data_std": 0.0}),
    ],
)
def test_refuses_options(guidance: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{guidance.__name__}: .*{next(iter(options))}"):
        guidance(dense_prior(VP()), WIDE, randn(1, 3), **options)


@pytest.mark.parametrize("guidance", [DPSGaussian, LGDMC])
def test_the_gaussian_likelihood_needs_noise(guidance: Any) -> None:
    with pytest.raises(ValueError, match="needs noise"):
        guidance(dense_prior(VP()), Matrix(WIDE.matrix), randn(1, 3))


@pytest.mark.parametrize("guidance", [DMPS, MCG])
def test_some_need_a_linear_operator(guidance: Any) -> None:
    assert not isinstance(TANH, LinearOperator)
    with pytest.raises(ValueError, match="needs a linear operator"):
        guidance(dense_prior(VP()), TANH, randn(1, 3))
