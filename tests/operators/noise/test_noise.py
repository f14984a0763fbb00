"""Laws of every noise model, found through its class; then samplers under them, against posteriors by quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from cases import over, selected
from helpers import randn
from scipy import stats
from torch import Tensor
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.operators import (
    Blur,
    CorrelatedNoise,
    CovarianceNoise,
    Function,
    GaussianNoise,
    LaplaceNoise,
    Mask,
    Matrix,
    Noise,
    Operator,
    PoissonGaussianNoise,
    PoissonNoise,
    RoundingNoise,
    StudentNoise,
    TransmissionNoise,
    linearize,
    whiten,
)
from invdiff.operators.noise.poisson import PhotonNoise
from invdiff.operators.noise.tempered import TemperedNoise
from invdiff.priors import Gaussian, GaussianMixture
from invdiff.random import Streams

EVERY = over("law", selected(Noise), rest="quick")
SMOOTH = over("law", selected(Noise, lambda cls: cls is not RoundingNoise), rest="quick")
# No gradient, no likelihood of each entry by itself, or the power of one.
JOINT = (RoundingNoise, CovarianceNoise, CorrelatedNoise, TemperedNoise)
ENTRYWISE = over("law", selected(Noise, lambda cls: cls not in JOINT), rest="quick")
EVENT = (2, 3)


def streams(count: int, *, first: int = 0) -> Streams:
    return Streams([torch.Generator().manual_seed(100 + first + b) for b in range(count)])


def clean_and_noisy(law: Noise, count: int) -> tuple[Tensor, Tensor]:
    clean = (0.4 * randn(1, *EVENT, seed=1)).expand(count, *EVENT)
    return clean, law.add(clean, streams(count))


@EVERY
def test_every_item_has_its_own_noise(law: Noise) -> None:
    clean, y = clean_and_noisy(law, 4)
    assert y.shape == clean.shape
    assert y.dtype == clean.dtype
    assert_close(law.add(clean[2:], streams(2, first=2)), y[2:], rtol=1e-13, atol=1e-13)
    assert isinstance(law, RoundingNoise) or not torch.equal(y[0], y[1])


@SMOOTH
def test_what_stands_for_it_has_its_gradient(law: Noise) -> None:
    clean, y = clean_and_noisy(law, 5)
    clean = clean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(law.log_likelihood(y, clean).sum(), clean)
    expected = law.whiten_adjoint(law.whiten(y - clean)) if law.gaussian else (y - clean) / law.variance(y, clean)
    near = (y - clean.detach()).abs() < 0.01 * law.sigma  # where Laplace's variance is held above 0
    assert near.sum() <= 3
    assert_close(expected.detach()[~near], gradient[~near], rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@SMOOTH
def test_the_gradient_is_zero_on_average(law: Noise) -> None:
    """As of any density: draws and likelihood are of the same law. And its product with the noise is one."""
    count = 3000
    clean, y = clean_and_noisy(law, count)
    clean = clean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(law.log_likelihood(y, clean).sum(), clean)
    for values, right in ((gradient, 0.0), (gradient * (y - clean.detach()), 1.0)):
        error = values.std(0) / math.sqrt(count)
        if isinstance(law, PhotonNoise) and law.readout:
            error = error + 0.02  # Snyder's law has the right mean and variance only.
        assert ((values.mean(0) - right).abs() < 4.5 * error).all(), (values.mean(0), error)


@ENTRYWISE
def test_the_likelihood_is_normalized(law: Noise) -> None:
    clean = torch.full((1, *EVENT), 0.2, dtype=torch.float64)
    if isinstance(law, PhotonNoise):
        counts = torch.arange(400, dtype=torch.float64) - (law.readout / law.gain) ** 2
        y, width = law.offset + law.gain * counts, 1.0
    elif isinstance(law, TransmissionNoise):
        counts = torch.arange(1000, dtype=torch.float64).reshape(-1, 1, 1).expand(-1, *EVENT)
        y, width = law.integrals(counts), 1.0
    else:
        y = torch.sinh(torch.linspace(-12, 12, 40_001, dtype=torch.float64))
        width = torch.gradient(y)[0]
    y = y if y.ndim == 3 else y.reshape(-1, 1, 1).expand(-1, *EVENT)
    p = law.log_likelihood(y, clean.expand(len(y), *EVENT)).exp()
    total = (p * (width.reshape(-1, 1, 1) if isinstance(width, Tensor) else width)).sum(0)
    assert_close(total, torch.ones(EVENT, dtype=torch.float64), rtol=2e-3, atol=0)


def test_against_scipy() -> None:
    y, clean = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([[0.2]], dtype=torch.float64)
    for law, expected in (
        (GaussianNoise(0.3), stats.norm.logpdf(0.7, 0.2, 0.3)),
        (StudentNoise(0.3, dof=2.5), stats.t.logpdf(0.7, 2.5, 0.2, 0.3)),
        (LaplaceNoise(0.3), stats.laplace.logpdf(0.7, 0.2, 0.3)),
        (PoissonNoise(0.1, offset=-1.0), stats.poisson.logpmf(17, 12)),
    ):
        assert float(law.log_likelihood(y, clean)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("law", "cdf"),
    [
        (StudentNoise(0.3, dof=2.5), stats.t(2.5, 0.0, 0.3).cdf),
        (LaplaceNoise(0.3), stats.laplace(0.0, 0.3).cdf),
        (GaussianNoise(0.3), stats.norm(0.0, 0.3).cdf),
    ],
)
def test_draws_have_the_law(law: Noise, cdf: Callable[..., Any]) -> None:
    noise = law.add(torch.zeros(8, 500, dtype=torch.float64), streams(8)).flatten()
    assert stats.kstest(noise.numpy(), cdf).pvalue > 1e-3


def test_photons() -> None:
    law = PoissonNoise(0.1, offset=-1.0)
    y = law.add(torch.full((4, 5000), 0.2, dtype=torch.float64), streams(4))
    counts = (y + 1) / 0.1
    assert_close(counts, counts.round(), rtol=0, atol=1e-9)
    assert float(counts.mean()) == pytest.approx(12, abs=4 * math.sqrt(12 / 20_000))
    assert float(counts.var()) == pytest.approx(12, rel=4 * math.sqrt(2.2 / 20_000))
    assert (law.add(torch.full((1, 4), -1.0), streams(1)) == -1).all()
    assert (law.variance(y, torch.full_like(y, -3.0)) > 0).all()  # no light at all


class TestTransmission:
    law = TransmissionNoise(torch.tensor([40.0, 3.0], dtype=torch.float64), background=0.5, scale=1.4)

    def test_counts_are_kept_down_to_none(self) -> None:
        counts = torch.arange(60, dtype=torch.float64).reshape(-1, 1).expand(-1, 2)
        y = self.law.integrals(counts)
        assert_close(self.law.counts(y), counts, rtol=1e-12, atol=1e-12)
        assert (y.diff(dim=0) < 0).all()
        assert_close(y[30], -((counts[30] - 0.5) / self.law.flat).log() / 1.4)

    def test_gradient_of_few_counts(self) -> None:
        """Also where there are none, up to the integral that stands for them; beyond it the likelihood has no maximum."""
        clean = torch.linspace(-1, 6, 200, dtype=torch.float64).reshape(-1, 1).expand(-1, 2).clone().requires_grad_()
        for count in (0.0, 1.0, 2.0, 30.0):
            y = self.law.integrals(torch.full_like(clean, count)).detach()
            (gradient,) = torch.autograd.grad(self.law.log_likelihood(y, clean).sum(), clean)
            v = self.law.variance(y, clean.detach())
            assert (v > 0).all()
            right = clean.detach() < y if count <= 1 else torch.ones_like(y, dtype=torch.bool)
            assert_close(((y - clean.detach()) / v)[right], gradient[right], rtol=1e-6, atol=1e-6)
            assert gradient[~right].abs().max() < 1.5 if (~right).any() else count > 1

    def test_squared_misfit_is_one(self) -> None:
        """Of counts as few as three, where that of their logarithm is far from it."""
        clean = torch.full((8, 20_000), 1.5, dtype=torch.float64)
        law = TransmissionNoise(20.0, background=0.5)
        misfit = law.squared_misfit(law.add(clean, streams(8)), clean)
        assert float(misfit.mean()) == pytest.approx(1, abs=4 * float(misfit.std()) / 400)

    def test_stays_finite(self) -> None:
        clean = torch.tensor([[-1e4, 1e4], [-50.0, 200.0]])
        y = self.law.integrals(torch.tensor([[0.0, 5.0], [900.0, 0.0]]))
        v = self.law.variance(y, clean)
        assert (v > 0).all()
        assert v.isfinite().all()
        assert self.law.log_likelihood(y, clean).isfinite().all()


def test_rounding() -> None:
    law = RoundingNoise(0.25, offset=-1.0)
    clean = torch.tensor([[-1.0, -0.9, -0.88, 0.13, 0.37]])
    y = law.add(clean, streams(1))
    assert_close(y, torch.tensor([[-1.0, -1.0, -1.0, 0.25, 0.25]]))
    assert (law.log_likelihood(y, clean) == 0).all()
    assert (law.log_likelihood(y, clean + 0.26) == -torch.inf).all()


def test_rounding_by_steps_of_each_entry() -> None:
    law = RoundingNoise(torch.tensor([0.25, 0.5, 2.0]), offset=torch.tensor([0.0, 0.1, -1.0]))
    clean = torch.tensor([[0.3, 0.3, 0.3], [0.4, 0.4, -0.1]])
    y = law.add(clean, streams(2))
    assert_close(y, torch.tensor([[0.25, 0.1, 1.0], [0.5, 0.6, -1.0]]))
    assert (law.log_likelihood(y, clean) == 0).all()
    inside = torch.tensor([[False, False, True], [False, True, False]])
    assert torch.equal(law.log_likelihood(y, clean + 0.26) == 0, inside)
    assert_close(law.variance(y, clean).expand_as(y)[1], torch.tensor([0.25, 0.5, 2.0]) ** 2 / 12)
    assert law.sigma == pytest.approx(0.25 / 12**0.5)
    assert repr(law) == "RoundingNoise(0.25 to 2, offset=-1 to 0.1)"


@pytest.mark.slow
@over("law", selected(Noise, lambda cls: cls.gaussian), rest="quick")
def test_whitened_noise_is_white(law: Noise) -> None:
    clean, y = clean_and_noisy(law, 3000)
    white = law.whiten(y - clean).flatten(1)
    assert_close(white.mT.cov(), torch.eye(6, dtype=torch.float64), rtol=0, atol=4.5 * math.sqrt(2 / 3000))
    v, w = randn(2, *EVENT, seed=3), randn(2, *EVENT, seed=4)
    assert_close((law.whiten(v) * w).sum(), (v * law.whiten_adjoint(w)).sum(), rtol=1e-10, atol=1e-10)


@EVERY
def test_moves(law: Noise) -> None:
    moved = law.to(dtype=torch.float32)
    clean = torch.zeros(2, *EVENT)
    assert moved.add(clean, streams(2)).dtype == torch.float32
    assert moved.log_likelihood(clean, clean).dtype == torch.float32


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GaussianNoise(-1.0), "sigma must be a finite number"),
        (lambda: GaussianNoise(torch.tensor([0.1, 0.0])), "must be positive and finite, got 0 to 0.1"),
        (lambda: PoissonNoise(0.0, offset=-1.0), "expected gain > 0"),
        (lambda: PoissonGaussianNoise(0.1, offset=math.inf, sigma=0.1), "a finite offset"),
        (lambda: TransmissionNoise(0.0), "expected flat > 0"),
        (lambda: TransmissionNoise(5.0, background=-1.0), "background >= 0"),
        (lambda: TransmissionNoise(5.0, scale=math.inf), "all finite"),
        (lambda: TransmissionNoise(torch.ones(3), background=torch.ones(2)), "shapes that broadcast"),
        (lambda: StudentNoise(0.1, dof=0.0), "dof > 0"),
        (lambda: LaplaceNoise(0.0), "scale > 0"),
        (lambda: RoundingNoise(0.0, offset=0.0), "step > 0"),
        (lambda: RoundingNoise(torch.tensor([0.1, -0.1]), offset=0.0), "got -0.1 to 0.1 and 0"),
        (lambda: CovarianceNoise(torch.eye(3)[:2]), "must be square"),
        (lambda: CovarianceNoise(torch.ones(2, 2)), "positive definite"),
        (lambda: CorrelatedNoise(Blur((1, 8, 8), torch.full((1, 4), 0.25))), "cannot be inverted"),
    ],
)
def test_bad_input(build: Callable[[], Noise], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.slow
class TestPosteriors:
    """Against quadrature over a grid, in two dimensions."""

    PRIOR = GaussianMixture(
        torch.tensor([0.4, 0.6], dtype=torch.float64),
        torch.tensor([[-0.6, 0.4], [0.5, -0.2]], dtype=torch.float64),
        torch.tensor([[[0.08, 0.0], [0.0, 0.08]], [[0.15, 0.08], [0.08, 0.1]]], dtype=torch.float64),
    )
    NORMAL = Gaussian(torch.tensor([0.1, -0.1], dtype=torch.float64), torch.tensor([[0.2, 0.1], [0.1, 0.15]]).double())
    MATRIX = torch.tensor([[1.0, 0.5], [-0.3, 0.8], [0.6, -0.7]], dtype=torch.float64)
    LAWS = (
        PoissonNoise(0.05, offset=-1.5),
        PoissonGaussianNoise(0.1, offset=-1.5, sigma=0.1),
        StudentNoise(0.15, dof=2.0),
        LaplaceNoise(0.15),
        TransmissionNoise(30.0, background=1.0),
        RoundingNoise(0.5, offset=0.0),
        GaussianNoise(torch.tensor([0.1, 0.3, 0.2], dtype=torch.float64)),
        CovarianceNoise(torch.tensor([[0.04, 0.02, 0.0], [0.02, 0.05, -0.01], [0.0, -0.01, 0.02]], dtype=torch.float64)),
    )

    def measured(self, prior: Any, law: Noise) -> tuple[Operator, Tensor]:
        op = Matrix(self.MATRIX)
        op.noise = law
        return op, op.measure(prior.sample(1, seed=3), seed=1)

    def exact(self, prior: Any, law: Noise, y: Tensor) -> tuple[Tensor, Tensor]:
        axis = torch.linspace(-3, 3, 401, dtype=torch.float64)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        log_p = law.log_likelihood(y.expand(len(grid), -1), grid @ self.MATRIX.mT).sum(1) + prior.log_prob(grid)
        w = log_p.softmax(0)
        mean = w @ grid
        return mean, (w @ (grid - mean) ** 2).sqrt()

    @pytest.mark.parametrize("law", LAWS, ids=repr)
    def test_particles_are_exact(self, law: Noise) -> None:
        """Asymptotically: to the Monte Carlo error of as many independent samples as they are worth, and a little."""
        op, y = self.measured(self.PRIOR, law)
        mean, std = self.exact(self.PRIOR, law, y)
        post = PosteriorSampler(self.PRIOR, op, method="mm-tsmc", steps=40, particles=64).run(y, num_samples=512, seed=0)
        error = std / math.sqrt(512 / 4)
        assert ((post.mean[0] - mean).abs() < 3.5 * error).all(), (post.mean[0], mean, std)
        assert ((post.std[0] / std).log().abs() < 0.2).all(), (post.std[0], std)

    @pytest.mark.parametrize("law", LAWS[-2:], ids=repr)
    @pytest.mark.parametrize("method", ["mmps", "pnp-dm", "pigdm", "ddrm"])
    def test_gaussian_noise_is_whitened_for_every_method(self, law: Noise, method: str) -> None:
        """The same samples as of the whitened problem, given by hand."""
        op, y = self.measured(self.PRIOR, law)
        by_hand = Matrix(law.whiten(self.MATRIX.mT).mT, sigma_y=1.0)
        found = PosteriorSampler(self.PRIOR, op, method=method, steps=5).run(y, num_samples=3, seed=0)
        expected = PosteriorSampler(self.PRIOR, by_hand, method=method, steps=5).run(law.whiten(y), num_samples=3, seed=0)
        assert_close(found.samples, expected.samples, rtol=1e-6, atol=1e-6)
        assert_close(found.residual, expected.residual, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("law", LAWS[-2:], ids=repr)
    def test_full_covariance_is_exact_under_a_gaussian_prior(self, law: Noise) -> None:
        op, y = self.measured(self.NORMAL, law)
        mean, std = self.exact(self.NORMAL, law, y)
        post = PosteriorSampler(self.NORMAL, op, method="mmps", steps=4).run(y, num_samples=2000, seed=0)
        assert ((post.mean[0] - mean).abs() < 4 * std / math.sqrt(2000)).all()
        assert ((post.std[0] / std).log().abs() < 4 / math.sqrt(2 * 2000)).all()

    def test_photons_under_a_gaussian_prior(self) -> None:
        """Single chains take a Gaussian for the Poisson law: good for tens of photons."""
        law = PoissonNoise(0.02, offset=-2.0)
        op, y = self.measured(self.NORMAL, law)
        mean, std = self.exact(self.NORMAL, law, y)
        post = PosteriorSampler(self.NORMAL, op, method="mmps", steps=30).run(y, num_samples=1000, seed=0)
        assert ((post.mean[0] - mean).abs() < 0.2 * std).all()
        assert ((post.std[0] / std).log().abs() < 0.1).all()

    def test_split_gibbs_takes_any_likelihood(self) -> None:
        law = self.LAWS[2]
        op, y = self.measured(self.PRIOR, law)
        mean, std = self.exact(self.PRIOR, law, y)
        post = PosteriorSampler(self.PRIOR, op, method="pnp-dm", steps=30, prior_steps=10).run(y, num_samples=200, seed=0)
        assert ((post.mean[0] - mean).abs() < 4 * std / math.sqrt(200)).all(), (post.mean[0], mean, std)

    def test_auto(self) -> None:
        op, _ = self.measured(self.PRIOR, self.LAWS[0])
        plan = PosteriorSampler(self.PRIOR, op).plan(1)
        assert (plan.method.name, plan.options["particles"]) == ("mm-tsmc", 64)

    def test_other_methods_say_so(self) -> None:
        op, _ = self.measured(self.PRIOR, self.LAWS[0])
        with pytest.raises(ValueError, match=r"DDRM needs white Gaussian noise, got PoissonNoise.*use 'mmps'"):
            PosteriorSampler(self.PRIOR, op, method="ddrm")

    @pytest.mark.parametrize("law", [law for law in LAWS if not isinstance(law, JOINT)], ids=repr)
    def test_the_residual_of_the_truth_is_one_per_entry(self, law: Noise) -> None:
        clean = torch.zeros(2000, 3, dtype=torch.float64)
        y = law.add(clean, streams(2000))
        share = (y - clean) ** 2 / law.variance(y, clean).expand_as(y)
        slack = 0.02 if isinstance(law, PhotonNoise) else 0.0
        assert float(share.mean()) == pytest.approx(1, abs=4 * float(share.std()) / math.sqrt(6000) + slack)


def test_missing_entries_have_no_noise_of_any_law() -> None:
    mask = torch.tensor([[True, False, True]])
    x = torch.zeros(2, 1, 3, dtype=torch.float64)
    for law in (PoissonNoise(0.05, offset=-1.0), StudentNoise(0.1, dof=3.0), GaussianNoise(torch.tensor([[0.1, 0.2, 0.3]]))):
        op = Mask(mask, sigma_y=0.0)
        op.noise = law
        y = op.measure(x, seed=0)
        assert (y[:, ~mask] == 0).all()
        assert (y[:, mask] != 0).any()
        _, residual, sigma_y = linearize(op, y, x)
        assert (residual[:, ~mask] == 0).all()
        assert sigma_y == 1


def test_a_covariance_over_missing_entries_is_refused() -> None:
    op = Mask(torch.tensor([True, False, True]))
    op.noise = CovarianceNoise(torch.eye(3) + 0.1)
    with pytest.raises(ValueError, match="correlates missing entries of Mask with measured ones"):
        whiten(op)


def test_nonlinear_operators_are_whitened_too() -> None:
    op, deviations = Function(lambda x: torch.tanh(2 * x), (3,)), torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    op.noise = GaussianNoise(deviations)
    x = randn(2, 3, seed=1)
    assert_close(whiten(op)(x), torch.tanh(2 * x) / deviations)


@pytest.mark.parametrize(
    "noise",
    [
        GaussianNoise(torch.ones(5)),
        GaussianNoise(torch.ones(2, 2, 3)),
        RoundingNoise(torch.ones(2, 1, 3), offset=0.0),
        CovarianceNoise(torch.eye(5)),
        CorrelatedNoise(Blur((1, 3, 4), torch.tensor([[0.1, 0.7, 0.2]]))),
    ],
    ids=repr,
)
def test_noise_of_another_shape_is_refused(noise: Noise) -> None:
    op = Mask(torch.tensor([[1, 0, 1], [1, 1, 1]]), noise=noise)
    with pytest.raises(ValueError, match=r"Mask: .*\(2, 3\)"):
        op.measure(torch.zeros(1, 2, 3), seed=0)
    with pytest.raises(ValueError, match=r"Mask: .*\(2, 3\)"):
        PosteriorSampler(Gaussian(torch.zeros(2, 3), torch.eye(6)), op)


def test_a_level_is_no_noise_model() -> None:
    with pytest.raises(TypeError, match="Give a standard deviation as sigma_y"):
        Mask(torch.ones(3), noise=cast(Any, 0.05))


def test_estimated_level() -> None:
    smooth = torch.linspace(-0.5, 0.5, 96).expand(2, 3, 64, 96)
    noisy = smooth + 0.1 * randn(*smooth.shape)
    assert GaussianNoise.estimate(noisy).sigma == pytest.approx(0.1, rel=0.03)
    with pytest.raises(ValueError, match=r"no noise level for pictures of shape .2, 3, 64, 4.: too few pixels"):
        GaussianNoise.estimate(noisy[..., :4])
