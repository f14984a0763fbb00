"""Laws of every prior: the analytic ones against formulas worked out here, networks against known denoisers, files."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from cases import build, over, selected
from helpers import norm, randn
from skimage import data
from torch import Tensor, nn
from torch.testing import assert_close

from invdiff.linalg import dense_matrix
from invdiff.operators import Identity, LinearOperator, Mask, Matrix
from invdiff.priors import Gaussian, GaussianMixture, ScoreModel, from_network, load_prior
from invdiff.priors.network import PARAMETRIZATIONS
from invdiff.schedules import EDM, VP, Cosine, RectifiedFlow, Schedule

EVERY = over("prior", selected(ScoreModel), rest="quick")
GAUSSIAN = over("prior", selected(Gaussian), rest="quick")
SCHEDULES = over("schedule", selected(Schedule), rest="quick")


def event(prior: Any) -> tuple[int, ...]:
    return tuple(prior.event_shape)


def components(prior: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return a prior as a flat mixture: log-weights ``(K,)``, means ``(K, n)``, dense covariances ``(K, n, n)``."""
    if isinstance(prior, GaussianMixture):
        return prior.weights.log(), prior.means, dense(prior.covs)
    return torch.zeros(1, dtype=prior.mean.dtype), prior.mean.reshape(1, -1), prior.covariance()[None]


def dense(covs: Tensor) -> Tensor:
    """Return the covariances of a mixture, dense or diagonal, as ``(K, n, n)``."""
    return covs.diag_embed() if covs.ndim == 2 else covs


def log_density(prior: Any, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """Return the log density of ``alpha x_0 + sigma eps`` at one flat ``x``, by Cholesky factors."""
    log_w, means, covs = components(prior)
    each = []
    for weight, mean, cov in zip(log_w, means, covs, strict=True):
        law = torch.distributions.MultivariateNormal(alpha * mean, alpha**2 * cov + sigma**2 * torch.eye(len(mean)).to(cov))
        each.append(weight + law.log_prob(x))
    return torch.stack(each).logsumexp(0)


def with_schedule(prior: Any, schedule: Schedule) -> Any:
    if isinstance(prior, GaussianMixture):
        return GaussianMixture(prior.weights, prior.means, prior.covs, schedule=schedule)
    if prior.mean.ndim == 3:
        rows, columns = (torch.fft.fftfreq(6, dtype=torch.float64), torch.fft.rfftfreq(8, dtype=torch.float64))
        spectrum = 0.3 / (0.05 + rows[:, None] ** 2 + columns**2)
        return Gaussian.stationary(prior.mean, spectrum.expand(1, 6, 5), schedule=schedule)
    cov = prior.covariance() if prior.mean.ndim == 1 else prior.covariance().diagonal().reshape(prior.mean.shape)
    return Gaussian(prior.mean, cov, schedule=schedule)


def middle(prior: Any, fraction: float = 0.5) -> Tensor:
    """Return a time at which the ratio is of the order of the data."""
    return prior.schedule.time(torch.tensor(0.05 ** (1 - 2 * fraction), dtype=torch.float64))


@EVERY
class TestAnalytic:
    @SCHEDULES
    def test_score_is_the_gradient_of_the_log_density(self, prior: Any, schedule: Schedule) -> None:
        prior = with_schedule(prior, schedule)
        for fraction in (0.2, 0.5, 0.9):
            t = middle(prior, fraction)
            alpha, sigma = schedule(t)
            x_t = (alpha + sigma) * randn(3, *event(prior), seed=1)
            flat = x_t.flatten(1).requires_grad_()
            log_p = torch.stack([log_density(prior, x, alpha, sigma) for x in flat])
            (gradient,) = torch.autograd.grad(log_p.sum(), flat)
            assert_close(prior.score(x_t, t).flatten(1), gradient, rtol=1e-7, atol=1e-8)
            expected = (flat + sigma**2 * gradient) / alpha  # Tweedie's formula
            assert_close(prior.denoise(x_t, t).flatten(1), expected.detach(), rtol=1e-7, atol=1e-8)

    def test_the_jacobian_is_symmetric(self, prior: Any) -> None:
        x_t, t = randn(1, *event(prior), seed=1), middle(prior)
        size = x_t.numel()
        jacobian = torch.autograd.functional.jacobian(lambda x: prior.denoise(x, t), x_t).reshape(size, size)
        assert_close(jacobian, jacobian.mT, rtol=1e-9, atol=1e-10)

    def test_a_time_per_item_equals_a_time_for_all(self, prior: Any) -> None:
        x_t = randn(3, *event(prior), seed=1)
        times = torch.stack([middle(prior, f) for f in (0.2, 0.5, 0.8)])
        each = torch.cat([prior.denoise(x[None], t) for x, t in zip(x_t, times, strict=True)])
        assert_close(prior.denoise(x_t, times), each)
        scores = torch.cat([prior.score(x[None], t) for x, t in zip(x_t, times, strict=True)])
        assert_close(prior.score(x_t, times), scores)

    def test_items_are_independent(self, prior: Any) -> None:
        x_t, t = randn(4, *event(prior), seed=1), middle(prior)
        together = prior.denoise(x_t, t)
        assert_close(torch.cat([prior.denoise(x[None], t) for x in x_t]), together, rtol=1e-12, atol=1e-12)

    def test_dtype_is_kept(self, prior: Any) -> None:
        x_t, t = randn(2, *event(prior), seed=1), middle(prior)
        single = prior.denoise(x_t.float(), t)
        assert single.dtype == prior.score(x_t.float(), t).dtype == torch.float32
        assert_close(single.double(), prior.denoise(x_t, t), rtol=1e-4, atol=1e-4)

    def test_an_argument_is_not_modified(self, prior: Any) -> None:
        x_t = randn(2, *event(prior), seed=1)
        prior.denoise(x_t, middle(prior))
        assert torch.equal(x_t, randn(2, *event(prior), seed=1))

    def test_log_prob(self, prior: Any) -> None:
        x = randn(3, *event(prior), seed=1)
        assert_close(prior.log_prob(x), torch.stack([log_density(prior, row.flatten(), 1.0, 0.0) for row in x]))

    @pytest.mark.slow
    def test_sample_moments(self, prior: Any) -> None:
        count = 4000
        samples = prior.sample(count, seed=0)
        assert samples.shape == (count, *event(prior))
        check_moments(samples.flatten(1), *moments(prior))
        assert_close(prior.sample(3, seed=0), samples[:3])
        assert (prior.sample(3, seed=1) != samples[:3]).any()
        with pytest.raises(ValueError, match="num_samples"):
            prior.sample(0, seed=0)

    @pytest.mark.parametrize("sigma_y", [0.3, 0.0])
    @pytest.mark.parametrize("kind", ["mask", "matrix", "rank 2", "identity"])
    def test_posterior(self, prior: Any, kind: str, sigma_y: float) -> None:
        """Against Bayes' rule in information form, in which exact data are very precise data."""
        op = operator(event(prior), kind, sigma_y)
        y = op.measure(prior.sample(3, seed=1), seed=2)
        post = prior.posterior(op, y)
        log_w, means, covs = components(prior)
        matrix = dense_matrix(op.forward, op.in_shape, dtype=torch.float64, device=torch.device("cpu"))
        variance = max(sigma_y**2, 1e-8)
        tolerance: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-8} if sigma_y else {"rtol": 1e-3, "atol": 1e-4}
        for b in range(3):
            log_weights, post_means, post_covs = [], [], []
            for weight, mean, cov in zip(log_w, means, covs, strict=True):
                precision = torch.linalg.inv(cov) + matrix.mT @ matrix / variance
                post_covs.append(torch.linalg.inv(precision))
                shift = matrix.mT @ (y[b].flatten() - matrix @ mean) / variance
                post_means.append(mean + post_covs[-1] @ shift)
                spread = matrix @ cov @ matrix.mT + variance * torch.eye(len(matrix)).to(cov)
                law = torch.distributions.MultivariateNormal(matrix @ mean, spread)
                log_weights.append(weight + law.log_prob(y[b].flatten()))
            if isinstance(prior, GaussianMixture):
                expected = torch.stack(log_weights).softmax(0)
                assert_close(post.weights[b], expected, rtol=1e-3, atol=1e-6)
                assert_close(post.means[b], torch.stack(post_means), **tolerance)
                assert_close(dense(post.covs), torch.stack(post_covs), **tolerance)
            else:
                assert_close(post.mean[b].flatten(), post_means[0], **tolerance)
                assert_close(post.covariance(), post_covs[0], **tolerance)

    @pytest.mark.slow
    def test_posterior_is_a_prior_again(self, prior: Any) -> None:
        op = operator(event(prior), "mask", 0.3)
        y = op.measure(prior.sample(2, seed=1), seed=2)
        post = prior.posterior(op, y)
        samples = post.sample(4000, seed=0)
        assert samples.shape == (4000, 2, *event(prior))
        for b in range(2):
            alone = prior.posterior(op, y[b : b + 1])
            mean, cov = moments(alone)
            check_moments(samples[:, b].flatten(1), mean, cov)
            x_t = randn(2, *event(prior), seed=3)
            assert_close(post.denoise(x_t, middle(prior))[b], alone.denoise(x_t[b : b + 1], middle(prior))[0])
        # Two halves of the data one after the other give what the whole gives.
        first, second = (Identity(event(prior), sigma_y=s) for s in (0.5, 0.4))
        y1, y2 = first.measure(prior.sample(2, seed=4), seed=5), second.measure(prior.sample(2, seed=4), seed=6)
        twice = prior.posterior(first, y1).posterior(second, y2)
        variance = 1 / (1 / 0.5**2 + 1 / 0.4**2)
        once = prior.posterior(Identity(event(prior), sigma_y=variance**0.5), variance * (y1 / 0.5**2 + y2 / 0.4**2))
        x_t = randn(2, *event(prior), seed=3)
        assert_close(twice.denoise(x_t, middle(prior)), once.denoise(x_t, middle(prior)), rtol=1e-6, atol=1e-7)

    def test_exact_data_of_everything_leave_no_doubt(self, prior: Any) -> None:
        op = Identity(event(prior))
        y = prior.sample(2, seed=1)
        samples = prior.posterior(op, y).sample(5, seed=0)
        assert_close(samples, y.expand_as(samples), rtol=1e-5, atol=1e-6)


def operator(shape: tuple[int, ...], kind: str, sigma_y: float) -> LinearOperator:
    size = math.prod(shape)
    if kind == "identity":
        return Identity(shape, sigma_y=sigma_y)
    if kind == "mask":
        mask = torch.arange(size).reshape(shape) % 3 == 0
        return Mask(mask, sigma_y=sigma_y)
    matrix = randn(3, size, seed=5)
    if kind == "rank 2":
        matrix[2] = matrix[0] - matrix[1]
    if len(shape) == 1:
        return Matrix(matrix, sigma_y=sigma_y)
    return OnFlat(matrix, shape, sigma_y)


class OnFlat(LinearOperator):
    """A matrix on events of any shape. In this file alone: the laws of operators are elsewhere."""

    def __init__(self, matrix: Tensor, shape: tuple[int, ...], sigma_y: float) -> None:
        self.inner = Matrix(matrix, sigma_y=sigma_y)
        self.in_shape, self.out_shape, self.noise = shape, self.inner.out_shape, self.inner.noise

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.forward(x.flatten(1))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(y).reshape(-1, *self.in_shape)


def moments(prior: Any) -> tuple[Tensor, Tensor]:
    if isinstance(prior, GaussianMixture):
        weights, means = prior.weights.reshape(-1), prior.means.reshape(-1, prior.means.shape[-1])
        covs = dense(prior.covs)
    else:
        weights, means, covs = torch.ones(1, dtype=prior.mean.dtype), prior.mean.reshape(1, -1), prior.covariance()[None]
    mean = weights @ means
    centered = means - mean
    return mean, torch.einsum("k,knm->nm", weights, covs) + torch.einsum("k,kn,km->nm", weights, centered, centered)


def check_moments(samples: Tensor, mean: Tensor, cov: Tensor) -> None:
    """Hold mean and covariance against their Monte Carlo errors, 5 standard errors wide."""
    count, centered = len(samples), samples - mean
    assert (samples.mean(0) - mean).abs().le(5 * (cov.diagonal() / count).sqrt() + 1e-9).all()
    products = centered[:, :, None] * centered[:, None]
    assert (products.mean(0) - cov).abs().le(5 * (products.var(0) / count).sqrt() + 1e-9).all()


@GAUSSIAN
def test_tweedie_of_second_order_is_the_covariance(prior: Any) -> None:
    x_t, t = randn(1, *event(prior), seed=1), middle(prior)
    alpha, sigma = prior.schedule(t)
    size = x_t.numel()
    jacobian = torch.autograd.functional.jacobian(lambda x: prior.denoise(x, t), x_t).reshape(size, size)
    cov = prior.covariance()
    inner = torch.linalg.inv(alpha**2 * cov + sigma**2 * torch.eye(size).to(cov))
    assert_close(sigma**2 / alpha * jacobian, cov - alpha**2 * cov @ inner @ cov)


class TestGaussian:
    def test_stationary_covariance_is_circulant(self) -> None:
        prior = build(Gaussian)[2]
        cov = prior.covariance().reshape(6, 8, 6, 8)
        assert_close(cov.roll((2, 3), (0, 1)).roll((2, 3), (2, 3)), cov)
        assert_close(cov, cov.permute(2, 3, 0, 1))

    def test_stationary_on_an_odd_width_has_the_spectrum_it_was_given(self) -> None:
        rows, columns = torch.fft.fftfreq(5).double(), torch.fft.rfftfreq(7).double()
        spectrum = (0.3 / (0.05 + rows[:, None] ** 2 + columns**2 + 0.1 * rows[:, None] * columns)).expand(2, 5, 4)
        prior = Gaussian.stationary(torch.zeros(2, 5, 7, dtype=torch.float64), spectrum)
        coefficients = torch.fft.rfft2(prior.sample(4000, seed=0), norm="ortho").abs() ** 2
        assert (coefficients.mean(0) / spectrum - 1).abs().max() < 6 * (2 / 4000) ** 0.5

    def test_log_prob_of_an_odd_width_and_of_means_per_item(self) -> None:
        rows, columns = torch.fft.fftfreq(5).double(), torch.fft.rfftfreq(7).double()
        odd = Gaussian.stationary(torch.zeros(2, 5, 7).double(), (1 / (0.05 + rows[:, None] ** 2 + columns**2)).expand(2, 5, 4))
        x = randn(2, 2, 5, 7, seed=1)
        assert_close(odd.log_prob(x), torch.stack([log_density(odd, row.flatten(), 1.0, 0.0) for row in x]))
        prior = build(Gaussian)[0]
        y = prior.sample(2, seed=2)
        each = torch.cat([prior.posterior(Identity((6,), sigma_y=0.5), y[b : b + 1]).log_prob(y[b : b + 1]) for b in (0, 1)])
        assert_close(prior.posterior(Identity((6,), sigma_y=0.5), y).log_prob(y), each)

    def test_a_singular_law_has_no_density(self) -> None:
        cov = torch.diag(torch.tensor([1.0, 0.0]))
        for prior in (Gaussian(torch.zeros(2), cov), GaussianMixture(torch.ones(1), torch.zeros(1, 2), cov[None])):
            with pytest.raises(ValueError, match="full rank"):
                prior.log_prob(torch.zeros(1, 2))

    def test_float32_posterior_under_exact_repeated_data(self) -> None:
        prior = Gaussian(torch.zeros(4), torch.eye(4))
        op = Matrix(torch.tensor([[1.0, 2, 0, 0], [1, 2, 0, 0], [0.3, 0, 1, 0]]))
        x = prior.sample(2, seed=0)
        post = prior.posterior(op, op(x))
        assert post.mean.dtype == torch.float32
        assert_close(op(post.mean), op(x), rtol=1e-4, atol=1e-4)
        assert post.covariance().abs().max() < 1.001

    @pytest.mark.parametrize(
        ("mean", "cov", "message"),
        [
            (torch.zeros(3), torch.eye(2), "cov must be"),
            (torch.zeros(3), torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]]), "symmetric"),
            (torch.zeros(3), torch.tensor([1.0, -1, 1]), "positive semi-definite"),
            (torch.zeros(3), -torch.eye(3), "positive semi-definite"),
            (torch.tensor([0.0, torch.nan, 0]), torch.eye(3), "finite"),
        ],
    )
    def test_refuses(self, mean: Tensor, cov: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Gaussian(mean, cov)

    def test_refuses_bad_spectra(self) -> None:
        mean = torch.zeros(1, 4, 6)
        with pytest.raises(ValueError, match="spectrum must have shape"):
            Gaussian.stationary(mean, torch.ones(1, 4, 6))
        lopsided = torch.ones(1, 4, 4)
        lopsided[0, 1, 0] = 2
        with pytest.raises(ValueError, match="even in the vertical frequency"):
            Gaussian.stationary(mean, lopsided)

    def test_refuses_a_dense_covariance_that_does_not_fit(self) -> None:
        prior = Gaussian(torch.zeros(1, 65, 64), torch.ones(1, 65, 64))
        with pytest.raises(ValueError, match="too large"):
            prior.covariance()


@pytest.mark.parametrize(
    ("weights", "means", "covs", "message"),
    [
        (torch.ones(2), torch.zeros(3, 4), torch.eye(4).expand(3, 4, 4), "expected weights"),
        (torch.ones(3), torch.zeros(3, 4), torch.eye(4), "expected weights"),
        (torch.ones(3), torch.zeros(3, 4), -torch.ones(3, 4), "positive"),
        (-torch.ones(3), torch.zeros(3, 4), torch.eye(4).expand(3, 4, 4), "weights"),
        (torch.zeros(3), torch.zeros(3, 4), torch.eye(4).expand(3, 4, 4), "weights"),
        (torch.ones(3), torch.zeros(3, 4), -torch.eye(4).expand(3, 4, 4), "positive"),
        (torch.ones(1), torch.zeros(1, 2), torch.tensor([[[1.0, 0.5], [0, 1]]]), "symmetric"),
        (torch.ones(1), torch.zeros(1, 2), torch.full((1, 2, 2), torch.nan), "finite"),
    ],
)
def test_mixture_refuses(weights: Tensor, means: Tensor, covs: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianMixture(weights, means, covs)


def test_a_diagonal_mixture_is_its_dense_form() -> None:
    diagonal = next(p for p in build(GaussianMixture) if p.covs.ndim == 2)
    full = GaussianMixture(diagonal.weights, diagonal.means, diagonal.covs.diag_embed())
    x_t, t = randn(5, 4, seed=1), middle(diagonal)
    assert_close(diagonal.denoise(x_t, t), full.denoise(x_t, t), rtol=1e-12, atol=1e-12)
    # Halfway between two narrow modes far from the origin: the squares that cancel are large.
    narrow = GaussianMixture(torch.ones(2), torch.full((2, 4), 40.0) + torch.tensor([[-1.0], [1.0]]), torch.full((2, 4), 0.01))
    x_t, t = 40 + 0.01 * randn(5, 4, seed=1, dtype=torch.float32), narrow.schedule.time(0.1)
    assert_close(narrow.denoise(x_t, t), narrow.denoise(x_t.double(), t.expand(5)).float())
    op = Matrix(randn(2, 4, seed=2), sigma_y=0.3)
    y = op.measure(diagonal.sample(3, seed=3), seed=4)
    first, second = diagonal.posterior(op, y), full.posterior(op, y)
    assert_close((first.weights, first.means, first.covs), (second.weights, second.means, second.covs), rtol=0, atol=0)


class Known(nn.Module):
    """The exact denoiser of a Gaussian, dressed as a network: it returns what ``predicts`` names."""

    def __init__(self, prior: Gaussian, predicts: str) -> None:
        super().__init__()
        self.prior, self.predicts = prior, predicts
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.register_buffer("offset", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        t = (time - 3) / 1000
        alpha, sigma = self.prior.levels(t, x)
        x0 = self.prior.denoise(x, t)
        eps = (x - alpha * x0) / sigma
        outputs = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "velocity": eps - x0, "score": -eps / sigma}
        outputs["-eps"] = -eps
        return self.scale * outputs[self.predicts] + cast(Tensor, self.offset)


class TestFromNetwork:
    @SCHEDULES
    @pytest.mark.parametrize("predicts", [*PARAMETRIZATIONS, "edm"])
    @pytest.mark.parametrize("per_item", [False, True])
    def test_every_parametrization_gives_the_denoiser(self, schedule: Schedule, predicts: str, per_item: bool) -> None:
        exact = with_schedule(build(Gaussian)[0], schedule)
        t = torch.stack([middle(exact, f) for f in (0.2, 0.5, 0.8)]) if per_item else middle(exact)
        if predicts == "edm":
            level, plain = 0.7, with_schedule(exact, EDM())

            def raw(x: Tensor, c_noise: Tensor) -> Tensor:
                sigma = (4 * c_noise).exp()[:, None]
                scale = (sigma**2 + level**2).sqrt()
                clean = plain.denoise(x * scale, sigma.flatten())
                return (clean - (level / scale) ** 2 * x * scale) * scale / (sigma * level)

            learned = from_network(raw, schedule, predicts="edm", sigma_data=level)
        else:
            learned = from_network(Known(exact, predicts), schedule, predicts=predicts, time=lambda t: 1000 * t + 3)
        x_t = randn(3, 6, seed=1)
        assert_close(learned.denoise(x_t, t), exact.denoise(x_t, t), rtol=1e-9, atol=1e-9)

    def test_the_module_is_left_alone(self) -> None:
        exact = build(Gaussian)[0]
        net = Known(exact, "eps")
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        prior = from_network(net, VP(), predicts="eps", time=lambda t: 1000 * t + 3)
        x_t = randn(3, 6, seed=1).requires_grad_()
        (gradient,) = torch.autograd.grad(prior.denoise(x_t, torch.tensor(0.5)).sum(), x_t)
        prior.to("cpu").denoise(x_t, torch.tensor(0.5)).sum().backward()
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
        assert net.scale.grad is None
        assert net.scale.requires_grad
        assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())

    def test_keeps_dtype_and_computes_in_that_of_the_weights(self) -> None:
        seen: list[torch.dtype] = []
        net = nn.Linear(6, 6)
        net.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))

        class Wrapped(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = net

            def forward(self, x: Tensor, time: Tensor) -> Tensor:
                return self.net(x) + time[:, None]

        prior = from_network(Wrapped(), VP(), predicts="x0")
        assert prior.denoise(randn(2, 6), torch.tensor(0.5)).dtype == torch.float64
        assert seen == [torch.float32]

    def test_refuses_unknown_parametrizations(self) -> None:
        with pytest.raises(ValueError, match="unknown predicts='noise', expected one of eps"):
            from_network(lambda x, t: x, VP(), predicts="noise")

    def test_refuses_outputs_of_another_shape(self) -> None:
        prior = from_network(lambda x, t: torch.cat([x, x], 1), VP())
        with pytest.raises(ValueError, match=r"mapped \(2, 6\) to \(2, 12\)"):
            prior.denoise(randn(2, 6), torch.tensor(0.5))

    @pytest.mark.parametrize("schedule", [VP(), Cosine(), RectifiedFlow()], ids=lambda s: type(s).__name__)
    def test_a_report_names_the_facts(self, schedule: Schedule) -> None:
        facts = from_network(lambda x, t: x, schedule, facts={"name": "mine"}).describe()
        assert facts["name"] == "mine"
        assert facts["schedule"] == type(schedule).__name__


def astronaut(*shape: int) -> Tensor:
    top, left = 60, 180
    return (
        torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None, :, top : top + shape[0], left : left + shape[1]] / 127.5 - 1
    )


class TestBundled:
    @pytest.fixture(scope="class")
    def prior(self) -> ScoreModel:
        return load_prior("natural", precision="float32")

    @pytest.mark.parametrize("shape", [(64, 64), (37, 51), (5, 7), (1, 1)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_any_size(self, prior: ScoreModel, shape: tuple[int, int], dtype: torch.dtype) -> None:
        x = randn(2, 3, *shape, dtype=dtype)
        x0_hat = prior.denoise(x, torch.tensor(0.5))
        assert x0_hat.shape == x.shape
        assert x0_hat.dtype == dtype
        assert x0_hat.isfinite().all()

    def test_removes_noise(self, prior: ScoreModel) -> None:
        x = astronaut(96, 96)
        noisy = x + 0.2 * randn(*x.shape, dtype=torch.float32)
        x0_hat = prior.denoise(noisy, torch.tensor(0.2))
        assert norm(x0_hat - x) < 0.6 * norm(noisy - x)

    def test_gradient_and_items(self, prior: ScoreModel) -> None:
        x = randn(2, 3, 16, 24, dtype=torch.float32).requires_grad_()
        x0_hat = prior.denoise(x, torch.tensor([0.1, 2.0]))
        (gradient,) = torch.autograd.grad(x0_hat[0].sum(), x)
        assert gradient[0].isfinite().all()
        assert gradient[0].abs().sum() > 0
        assert (gradient[1] == 0).all()
        alone = prior.denoise(x[1:], torch.tensor(2.0))
        assert_close(x0_hat[1:], alone, rtol=1e-4, atol=1e-4)

    def test_extreme_levels(self, prior: ScoreModel) -> None:
        x = astronaut(32, 32)
        assert_close(prior.denoise(x, torch.tensor(1e-4)), x, rtol=0, atol=1e-2)
        far = prior.denoise(100 * randn(1, 3, 32, 32, dtype=torch.float32), torch.tensor(100.0))
        assert far.isfinite().all()
        assert float(far.abs().mean()) < 2

    def test_reports_its_facts(self, prior: ScoreModel) -> None:
        facts = prior.describe()
        assert facts["name"] == "natural"
        assert len(facts["sha256"]) == 64
        assert facts["images_seen"] > 10_000
