"""The measured covariance of a denoiser's error: its algebra, what is measured of a known prior, files, and MMPS with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import dot, norm, randn
from PIL import Image
from safetensors.torch import load_file, save_file
from stepping import posterior_mean
from torch import Tensor
from torch.testing import assert_close

from invdiff import PosteriorSampler
from invdiff.cosine_transform import cosine_inverse, cosine_transform
from invdiff.linalg import dense_matrix
from invdiff.methods.guidance import MMPS
from invdiff.operators import Blur, Downsample, Function, LinearOperator, Mask, gaussian_kernel, per_item
from invdiff.priors import (
    ErrorCovariance,
    ErrorModel,
    Gaussian,
    Gray,
    ScoreModel,
    Tiled,
    from_network,
    load_prior,
    measure_error,
    save_error_model,
)
from invdiff.priors.errors.covariance import UNEVENNESS, WIDTHS
from invdiff.priors.errors.files import errors_beside, read_error_model
from invdiff.priors.errors.frequencies import OCTAVES, frequencies, hats, nodes, octaves
from invdiff.priors.save import BUNDLED
from invdiff.random import Streams
from invdiff.schedules import EDM

STANDARD_ERRORS = 4.5
SIDE = 16


def density(rows: int, columns: int, channels: int = 2) -> Tensor:
    """Return the spectrum of a texture over the frequencies of a periodic image, ``(channels, rows, columns)``."""
    fy, fx = torch.fft.fftfreq(rows, dtype=torch.float64), torch.fft.fftfreq(columns, dtype=torch.float64)
    one = 0.02 / (0.03 + fy[:, None] ** 2 + fx**2)
    return torch.stack([one / (1 + 3 * channel) for channel in range(channels)])


def texture(rows: int, columns: int) -> Gaussian:
    spectrum = density(rows, columns)[..., : columns // 2 + 1]
    return Gaussian.stationary(torch.zeros(2, rows, columns, dtype=torch.float64), spectrum, schedule=EDM())


def estimates(prior: Gaussian, count: int, ratio: float) -> Tensor:
    """Return denoised samples."""
    x, t = prior.sample(count, seed=3), prior.schedule.time(ratio)
    return prior.denoise(x + ratio * randn(*x.shape, seed=4), t)


@cache
def measured() -> ErrorModel:
    """What is measured of a texture whose two colors are independent."""
    return measure_error(texture(SIDE, SIDE), texture(SIDE, SIDE).sample(200, seed=1), batch=200)


def anything(seed: int = 0) -> ErrorModel:
    """A model of random numbers, which depends on image, level, place, color and frequency."""
    features = 1 + 2 * len(WIDTHS)
    return ErrorModel(
        levels=torch.tensor([0.1, 0.5, 4.0], dtype=torch.float64),
        frequencies=nodes(20),
        colors=torch.linalg.qr(randn(3, 3, seed=seed))[0],
        log_signal=randn(3, 3, len(nodes(20)), len(nodes(20)), seed=seed + 1),
        weights=0.2 * randn(3, features, 3 * OCTAVES, seed=seed + 2),
        floors=torch.tensor([0.01, 0.02, 0.03], dtype=torch.float64),
    )


def dense(model: ErrorModel, x0_hat: Tensor) -> Tensor:
    """Return the matrix of the covariance of one estimate ``(1, C, H, W)``."""

    def product(v: Tensor) -> Tensor:
        return model.at(x0_hat.expand(len(v), -1, -1, -1), 0.7).product(v)

    return dense_matrix(product, x0_hat.shape[1:], dtype=torch.float64, device=torch.device("cpu"))


def drawn(covariance: ErrorCovariance, count: int) -> Tensor:
    """Return draws of a covariance of one item."""
    streams = Streams([torch.Generator().manual_seed(5)])
    return torch.cat([covariance.draw(lambda event: streams.normal(event, dtype=torch.float64)) for _ in range(count)])


class TestFrequencies:
    @pytest.mark.parametrize("shape", [(8, 8), (7, 12)])
    def test_the_inverse_is_the_adjoint(self, shape: tuple[int, int]) -> None:
        x = randn(2, 3, *shape)
        assert_close(cosine_inverse(cosine_transform(x)), x)
        assert_close(norm(cosine_transform(x)), norm(x))

    @pytest.mark.parametrize("shape", [(8, 8), (7, 50)])
    def test_octaves_share_every_frequency(self, shape: tuple[int, int]) -> None:
        windows = octaves(*shape, randn(1))
        assert_close(windows.square().sum(0), torch.ones(shape, dtype=torch.float64))
        assert windows[0, -1, -1] == 1
        assert windows[-1, 0, 0] == 1

    def test_a_table_is_read_at_its_own_frequencies(self) -> None:
        assert_close(hats(24, frequencies(24)), torch.eye(24, dtype=torch.float64))
        read = hats(96, nodes(96))
        assert_close(read.sum(1), torch.ones(96, dtype=torch.float64))
        assert_close(read @ nodes(96).log(), frequencies(96).log())
        assert len(nodes(96)) < 30


class TestCovariance:
    @pytest.mark.parametrize("shape", [(2, 3, 8, 8), (3, 3, 7, 12)])
    def test_is_symmetric_and_positive(self, shape: tuple[int, ...]) -> None:
        covariance = anything().at(randn(*shape), 0.7)
        a, b = randn(*shape, seed=1), randn(*shape, seed=2)
        assert_close(dot(covariance.product(a), b), dot(a, covariance.product(b)))
        assert (dot(covariance.product(a), a) > 0).all()
        assert_close(dense(anything(), a[:1]).trace() / a[0].numel(), anything().at(a, 0.7).level[0])

    def test_draws_have_it(self) -> None:
        count, shape = 4000, (3, 4, 6)
        x0_hat = randn(1, *shape)
        weights = anything().weights.clone()
        weights[:, 1:] = 0  # as hard everywhere
        model = replace(anything(), weights=weights)
        draws = drawn(model.at(x0_hat, 0.7), count).flatten(1)
        white = torch.linalg.solve_triangular(torch.linalg.cholesky(dense(model, x0_hat)), draws.mT, upper=False).mT
        gap = white.mT @ white / count - torch.eye(72, dtype=torch.float64)
        deviation = (1 + torch.eye(72, dtype=torch.float64)).sqrt() / count**0.5
        assert (gap / deviation).abs().max() < STANDARD_ERRORS + 0.5

    def test_draws_have_more_of_it_where_it_is_harder(self) -> None:
        """One half of the image is smooth, the other rough: the variance is in the latter, and on average what it was."""
        count, shape = 600, (3, 12, 16)
        x0_hat = randn(1, *shape)
        x0_hat[..., :8] = 0
        model = replace(anything(), weights=torch.full_like(anything().weights, 0.1))
        covariance = model.at(x0_hat, 0.7)
        variance = drawn(covariance, count).square().mean((0, 1))
        smooth, rough = variance[:, :5].mean(), variance[:, 11:].mean()
        local = (
            model.at(x0_hat, 0.7, (x0_hat != 0).any(1, keepdim=True).double()).level
            / model.at(x0_hat, 0.7, (x0_hat == 0).all(1, keepdim=True).double()).level
        )
        assert float(rough / smooth) == pytest.approx(float(local) ** UNEVENNESS, rel=0.25)
        assert float(variance.mean()) == pytest.approx(float(covariance.level), rel=0.1)
        assert local > 2

    def test_items_and_arguments_are_kept_apart(self) -> None:
        model, x0_hat = anything(), randn(3, 3, 8, 12)
        v, before = randn(3, 3, 8, 12, seed=1), x0_hat.clone()
        together = model.at(x0_hat, 0.7).product(v)
        assert_close(torch.cat([model.at(x0_hat[b : b + 1], 0.7).product(v[b : b + 1]) for b in range(3)]), together)
        assert torch.equal(x0_hat, before)
        assert not torch.allclose(together[0], model.at(x0_hat[1:2], 0.7).product(v[:1])[0], rtol=0.01)  # each its own

    def test_what_is_not_finite_stays_so(self) -> None:
        x0_hat = randn(2, 3, 8, 8)
        x0_hat[1, 0, 0, 0] = torch.nan
        levels = anything().at(x0_hat, 0.7).level
        assert levels[0].isfinite()
        assert levels[1].isnan()

    def test_dtype_follows_the_estimate(self) -> None:
        x0_hat = randn(1, 3, 8, 8)
        single = anything().at(x0_hat.float(), 0.7).product(x0_hat.float())
        assert single.dtype == torch.float32
        assert_close(single.double(), anything().at(x0_hat, 0.7).product(x0_hat), rtol=1e-3, atol=1e-4)

    def test_places_that_count(self) -> None:
        """One half of the image is smooth, the other rough: what counts decides, and counting all is the default."""
        x0_hat = randn(2, 3, 12, 16)
        x0_hat[..., :8] = 0
        left = torch.zeros(2, 1, 12, 16, dtype=torch.float64)
        left[..., :8] = 1
        model = replace(anything(), weights=torch.full_like(anything().weights, 0.1))
        smooth, all_of_it, rough = (model.at(x0_hat, 0.7, w).level for w in (left, None, 1 - left))
        assert (smooth < 0.7 * all_of_it).all()
        assert (all_of_it < 0.7 * rough).all()
        assert_close(model.at(x0_hat, 0.7, 0 * left).level, all_of_it)
        assert_close(model.at(x0_hat, 0.7, left.expand(-1, 3, -1, -1)).level, smooth)
        assert_close((smooth + rough) / 2, all_of_it)

    def test_levels_between_and_beyond(self) -> None:
        """A Gaussian whose spectrum is the same at all levels errs by S r^2 / (S + r^2), at any ratio."""
        model, x0_hat = anything(), randn(1, 3, 20, 20)
        flat = replace(model, log_signal=model.log_signal[:1].expand(3, -1, -1, -1), weights=0 * model.weights)
        signal = flat.at(x0_hat, 1e6).variances
        for ratio in (1e-4, 0.1, 0.3, 0.5, 2.0, 300.0):
            expected = signal * ratio**2 / (signal + ratio**2)
            assert_close(flat.at(x0_hat, ratio).variances, expected, rtol=1e-6, atol=0)
        low, middle, high = (model.at(x0_hat, ratio).variances.log() for ratio in (0.4999, 0.5, 0.5001))
        assert (low - middle).abs().max() < 0.01
        assert (high - middle).abs().max() < 0.01

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"levels": torch.tensor([0.5, 0.1, 4.0])}, "levels must be positive and increasing"),
            ({"floors": torch.zeros(3)}, "floors must be positive"),
            ({"colors": torch.ones(3, 3)}, "orthonormal"),
            ({"weights": torch.zeros(3, 7, 11)}, r"weights must have shape \(3, 7, 12\)"),
            ({"log_signal": torch.full((3, 3, len(nodes(20)), len(nodes(20))), torch.nan)}, "log_signal must be finite"),
        ],
    )
    def test_refuses(self, change: dict[str, Tensor], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            replace(anything(), **change)

    @pytest.mark.parametrize(("shape", "ratio"), [((1, 2, 8, 8), 0.5), ((3, 8, 8), 0.5), ((1, 3, 8, 8), 0.0)])
    def test_refuses_estimates(self, shape: tuple[int, ...], ratio: float) -> None:
        with pytest.raises(ValueError, match="ErrorModel: "):
            anything().at(torch.zeros(shape), ratio)


@pytest.mark.slow
class TestMeasurement:
    @pytest.mark.parametrize("ratio", [0.05, 0.4, 1.5])
    def test_of_a_gaussian_is_its_error(self, ratio: float) -> None:
        """The variance of every cosine coefficient within its Monte Carlo error, and of another level not."""

        def exact(at: float) -> Tensor:
            signal = density(SIDE, SIDE)
            variances = signal * at**2 / (signal + at**2)
            cosines = cosine_transform(torch.eye(SIDE, dtype=torch.float64)[..., None])[..., 0]
            waves = torch.fft.fft(cosines, norm="ortho").abs() ** 2
            return waves @ variances @ waves.mT

        def deviation(variances: Tensor) -> float:
            found = measured().at(estimates(texture(SIDE, SIDE), 20, ratio), ratio).variances.mean(0)
            return float(((found / variances).log() / (2 / 200) ** 0.5).abs().max())

        assert deviation(exact(ratio)) < STANDARD_ERRORS + 0.5
        assert deviation(exact(ratio / 3)) > STANDARD_ERRORS + 1

    @pytest.mark.parametrize("shape", [(48, 48), (24, 80), (12, 12)])
    def test_serves_every_size(self, shape: tuple[int, int]) -> None:
        """The level of a pixel of a texture is the same in a large picture of it, or a long one."""
        model, ratio = measured(), 0.4
        found = model.at(estimates(texture(*shape), 8, ratio), ratio).level.mean()
        signal = density(*shape)
        exact = (signal * ratio**2 / (signal + ratio**2)).mean()
        assert float(found / exact) == pytest.approx(1, abs=0.05)  # 3 % are what a table of 16 pixels does not resolve

    def test_images_that_are_harder_have_larger_errors(self) -> None:
        """Images of two kinds, smooth and rough, under their mixture: each gets the level of its kind."""

        def denoise(x_t: Tensor, sigma: Tensor) -> Tensor:
            rough = (x_t.flatten(1).var(1) > 0.3)[:, None, None, None]  # told apart where the noise is low
            scale = torch.where(rough, 1.0, 0.01)
            return x_t * scale / (scale + sigma.reshape(-1, 1, 1, 1) ** 2)

        prior = from_network(denoise, EDM(sigma_max=0.3), predicts="x0", event_shape=(1, None, None))
        kind = torch.tensor([0.1, 1.0]).repeat(20)[:, None, None, None]
        model = measure_error(prior, kind * randn(40, 1, SIDE, SIDE, seed=2, dtype=torch.float32))
        x, sigma = kind[:2] * randn(2, 1, SIDE, SIDE, seed=7, dtype=torch.float32), torch.tensor(0.2)
        x0_hat = denoise(x + sigma * randn(2, 1, SIDE, SIDE, seed=8, dtype=torch.float32), sigma)
        expected = torch.tensor([0.01, 1.0]) * 0.04 / (torch.tensor([0.01, 1.0]) + 0.04)
        assert_close(model.at(x0_hat, 0.2).level, expected, rtol=0.25, atol=0)
        assert expected[1] > 4 * expected[0]

    def test_one_seed_gives_one_model(self) -> None:
        crops = texture(SIDE, SIDE).sample(4, seed=1).float()
        first, again, other = (measure_error(texture(SIDE, SIDE), crops, seed=s, batch=b) for s, b in ((0, 4), (0, 3), (1, 4)))
        assert_close(first.log_signal, again.log_signal)
        assert_close(first.weights, again.weights)
        assert not torch.allclose(first.log_signal, other.log_signal)
        assert first.facts["crops"] == 4
        assert_close(torch.tensor(first.facts["claimed_rms"]), torch.tensor(first.facts["error_rms"]), rtol=0.15, atol=0)

    @pytest.mark.parametrize("shape", [(0, 2, 8, 8), (2, 2, 8, 16), (2, 2, 4, 4), (2, 3, 16, 16), (2, 16, 16)])
    def test_refuses(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="measure_error: "):
            measure_error(texture(SIDE, SIDE), torch.zeros(shape))

    def test_who_passes_it_on(self) -> None:
        prior = from_network(lambda x, t: x, EDM(), predicts="x0", event_shape=(3, 16, 16))
        prior.error_model = anything()
        assert Tiled(prior).error_model is prior.error_model
        assert Gray(prior).error_model is None


# MMPS with it.

SHAPE = (3, 8, 8)


def cosine_prior(*, level: float = 1.0) -> tuple[Gaussian, Gaussian]:
    """Return a Gaussian prior that cosines make diagonal, with the model of its error times ``level``, and without one."""
    k = torch.arange(8, dtype=torch.float64)
    signal = torch.stack([2.0 / (1 + c + k[:, None] ** 2 + 2 * k**2) for c in range(3)])
    matrix = dense_matrix(
        lambda x: cosine_inverse(signal * cosine_transform(x)), SHAPE, dtype=torch.float64, device=torch.device("cpu")
    )
    plain, known = (Gaussian(torch.full(SHAPE, 0.1).double(), matrix, schedule=EDM(sigma_max=200.0)) for _ in range(2))
    weights = torch.zeros(1, 7, 3 * OCTAVES, dtype=torch.float64)
    weights[:, 0] = np.log(level)
    known.error_model = ErrorModel(
        levels=torch.ones(1, dtype=torch.float64),
        frequencies=frequencies(8),
        colors=torch.eye(3, dtype=torch.float64),
        log_signal=signal.log()[None],
        weights=weights,
        floors=torch.ones(1, dtype=torch.float64),
    )
    return known, plain


def operators() -> list[Any]:
    known = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) < 0.5
    ops: list[LinearOperator] = [
        Mask(known, sigma_y=0.1),
        Blur(SHAPE, gaussian_kernel(0.7), sigma_y=0.1),
        Downsample(SHAPE, 2, sigma_y=0.1),
    ]
    return [pytest.param(op, id=type(op).__name__) for op in ops]


CONVERGED: dict[str, Any] = {"rtol": 1e-9, "inner_iterations": 500}


@pytest.mark.slow
class TestHybrid:
    @pytest.mark.parametrize("op", operators())
    @pytest.mark.parametrize("ratio", [0.05, 0.7, 12.0])
    def test_is_exact_with_the_exact_covariance(self, op: LinearOperator, ratio: float) -> None:
        (known, plain), (inflated, _) = cosine_prior(), cosine_prior(level=1.5)
        y, x_t, t = op.measure(plain.sample(2, seed=4), seed=5), randn(2, *SHAPE, seed=6), plain.schedule.time(ratio)
        exact = posterior_mean(MMPS(plain, op, y, rtol=1e-10, max_iterations=150), x_t, t)
        for products in (1, 3):
            found = posterior_mean(MMPS(known, op, y, products=products, **CONVERGED), x_t, t)
            assert_close(found, exact, rtol=1e-5, atol=1e-5)
        # At low noise the covariance is white, and one exact product is all there is to do.
        wrong = posterior_mean(MMPS(inflated, op, y, **CONVERGED), x_t, t)
        assert (norm(wrong - exact) > 1e-3 * norm(exact - plain.denoise(x_t, t))).all() or ratio == 0.05

    def test_one_step_is_an_exact_posterior_draw(self) -> None:
        op = operators()[0].values[0]
        (known, plain), (inflated, _) = cosine_prior(), cosine_prior(level=1.5)
        y = op.measure(plain.sample(1, seed=4), seed=5)
        exact = plain.posterior(op, y)
        variance = exact.covariance().diagonal()

        def check(prior: ScoreModel) -> None:
            sampler = PosteriorSampler(prior, op, method="mmps", steps=1, ratio_max=100.0, **CONVERGED)
            post = sampler.run(y, num_samples=1000)
            assert (post.nfe, post.nvjp) == (1, 1)
            samples = post.samples[:, 0].flatten(1)
            z = (samples.mean(0) - exact.mean[0].flatten()) / (variance / 1000).sqrt()
            assert z.abs().max() < STANDARD_ERRORS
            assert float((samples.var(0) / variance).mean()) == pytest.approx(1, abs=0.05)

        check(known)
        with pytest.raises(AssertionError):
            check(inflated)

    def test_auto_takes_what_there_is(self) -> None:
        known, plain = cosine_prior()
        op, few = Mask(torch.arange(192).reshape(SHAPE) % 2 == 0, sigma_y=0.1), Downsample(SHAPE, 8, sigma_y=0.1)
        y, x_t, t = op(plain.sample(2, seed=1)), randn(2, *SHAPE, seed=6), plain.schedule.time(0.7)
        without = posterior_mean(MMPS(plain, op, y), x_t, t)
        assert torch.equal(posterior_mean(MMPS(known, op, y, covariance="jacobian"), x_t, t), without)
        assert not torch.equal(posterior_mean(MMPS(known, op, y), x_t, t), without)
        # Few numbers are solved exactly, and better.
        assert MMPS(known, few, few(plain.sample(2, seed=1))).error_model is None
        assert MMPS(known, few, few(plain.sample(2, seed=1)), covariance="measured").error_model is not None
        with pytest.raises(ValueError, match="needs a prior whose error was measured"):
            MMPS(plain, op, y, covariance="measured")
        with pytest.raises(ValueError, match="covariance must be one of auto, jacobian, measured"):
            MMPS(plain, op, y, covariance="exact")

    @pytest.mark.filterwarnings("ignore:run. y is|misfit")  # An item is far out of range.
    @pytest.mark.parametrize("sigma_y", [0.1, 0.0])
    def test_items_are_independent(self, sigma_y: float) -> None:
        """Of each other, of their operators, and of how long a neighbor's solves take."""
        known, _ = cosine_prior()
        masks = [torch.rand(SHAPE, generator=torch.Generator().manual_seed(k)) < 0.2 + 0.3 * k for k in range(3)]
        op = per_item([Mask(mask, sigma_y=sigma_y) for mask in masks])
        y = op(known.sample(3, seed=1)) * torch.tensor([1.0, 1e-3, 30.0])[:, None, None, None]
        together = PosteriorSampler(known, op, steps=3).run(y, num_samples=2, seed=3).samples
        for b in range(3):
            alone = PosteriorSampler(known, op.take([b]), steps=3)
            guided, x_t, t = MMPS(known, op, y), randn(3, *SHAPE, seed=6), known.schedule.time(0.7)
            row = slice(b, b + 1)
            one = posterior_mean(MMPS(known, op.take([b]), y[row]), x_t[row], t)
            assert_close(one, posterior_mean(guided, x_t, t)[row], rtol=1e-6, atol=1e-8)
            assert alone.run(y[row], num_samples=2, seed=3).samples.isfinite().all()
        again = PosteriorSampler(known, op, steps=3).run(y, num_samples=2, seed=3, chunk=1).samples
        assert_close(again, together, rtol=1e-5, atol=1e-6)  # Exact data are ill-conditioned.

    def test_exact_data_are_met(self) -> None:
        known, _ = cosine_prior()
        op = Mask(torch.arange(192).reshape(SHAPE) % 3 > 0)
        y, other = op(known.sample(1, seed=1)), op(known.sample(1, seed=2))
        samples, others = (PosteriorSampler(known, op, steps=16).run(z, num_samples=4).samples[:, 0] for z in (y, other))
        assert (norm(op(samples) - y) < 0.02 * norm(y)).all()
        missing = ~op.mask.expand(SHAPE).bool()
        assert not torch.allclose(samples[:, missing], others[:, missing], atol=0.1)  # also where nothing is measured

    def test_nonlinear_measurements_and_other_noise(self) -> None:
        known, plain = cosine_prior()
        op = Function(lambda x: torch.tanh(x[:, :2]), SHAPE, sigma_y=0.1)
        y, x_t, t = op(plain.sample(2, seed=1)), randn(2, *SHAPE, seed=6), plain.schedule.time(0.7)
        exact = posterior_mean(MMPS(plain, op, y, rtol=1e-10, max_iterations=128), x_t, t)
        assert_close(posterior_mean(MMPS(known, op, y, **CONVERGED), x_t, t), exact, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("options", [{"products": 0}, {"inner_iterations": 0}])
    def test_refuses(self, options: dict[str, Any]) -> None:
        op = operators()[0].values[0]
        with pytest.raises(ValueError, match=f"{next(iter(options))}"):
            MMPS(cosine_prior()[0], op, torch.zeros(1, *SHAPE), **options)


# Files.


@pytest.fixture
def prior_file(tiny_prior: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(tiny_prior, tmp_path / "own.safetensors"))


class TestFiles:
    def test_round_trip(self, prior_file: Path) -> None:
        model = anything()
        save_error_model(model, errors_beside(prior_file), prior=prior_file)
        prior, x0_hat = load_prior(prior_file, precision="float32"), randn(1, 3, 12, 16)
        assert prior.error_model is not None
        assert prior.notes == ()
        found, expected = (m.at(x0_hat, 0.7).product(x0_hat) for m in (prior.error_model, model))
        assert_close(found, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))  # half precision
        assert prior.describe()["error_model"]["sha256"]
        assert load_prior(prior_file, errors=False).error_model is None
        assert [path.name for path in prior_file.parent.iterdir() if path.name.startswith(".")] == []

    def test_of_another_prior_is_left_aside_and_said(self, prior_file: Path) -> None:
        save_error_model(anything(), errors_beside(prior_file), prior=prior_file)
        tensors = load_file(prior_file)
        name = next(iter(tensors))
        from safetensors import safe_open

        with safe_open(prior_file, framework="pt") as file:
            metadata = file.metadata()
        save_file(tensors | {name: tensors[name] + 1}, prior_file, metadata=metadata)
        prior = load_prior(prior_file)
        assert prior.error_model is None
        assert "measured on another prior" in prior.notes[0]
        op = Downsample((3, 16, 16), 2, sigma_y=0.1)
        assert PosteriorSampler(prior, op).notes == prior.notes
        assert PosteriorSampler(Tiled(prior, tile=16), op).notes == prior.notes

    def test_belongs_to_what_the_prior_was_told(self, prior_file: Path) -> None:
        path = errors_beside(prior_file)
        save_error_model(anything(), path, prior=prior_file, given={"label": 3})
        assert isinstance(read_error_model(path, prior=prior_file, given={"label": "3"}), ErrorModel)
        assert isinstance(read_error_model(path, prior=prior_file, given={"label": 4}), str)

    @pytest.mark.parametrize("damage", ["cut", "empty", "tensor", "shape", "finite", "dtype", "metadata"])
    def test_damaged(self, prior_file: Path, damage: str) -> None:
        from safetensors import safe_open

        path = errors_beside(prior_file)
        save_error_model(anything(), path, prior=prior_file)
        if damage in ("cut", "empty"):
            path.write_bytes(path.read_bytes()[: -100 if damage == "cut" else 0])
        else:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
            tensors = load_file(path)
            changes: dict[str, Callable[[], object]] = {
                "tensor": lambda: tensors.pop("weights"),
                "shape": lambda: tensors.update(weights=tensors["weights"][:2].clone()),
                "finite": lambda: tensors["floors"].fill_(torch.nan),
                "dtype": lambda: tensors.update(weights=tensors["weights"].double()),
                "metadata": lambda: metadata.clear(),
            }
            changes[damage]()
            save_file(tensors, path, metadata=metadata)
        with pytest.raises(ValueError, match=r"own\.errors\.safetensors: no file of measured errors.*invdiff priors measure"):
            load_prior(prior_file)

    def test_that_of_the_bundled_prior(self) -> None:
        path = errors_beside(BUNDLED["natural"])
        assert path.stat().st_size < 200 * 2**10
        model = read_error_model(path, prior=BUNDLED["natural"])
        assert isinstance(model, ErrorModel), model
        claimed, error = (np.array(model.facts[f"{name}_rms"]) for name in ("claimed", "error"))
        assert (abs(claimed / error - 1) < 0.03).all()
        assert (error < np.array(model.levels)).all()  # Denoising helps at every level.


@pytest.mark.slow
class TestCommand:
    def test_measures_and_solves(self, invdiff: Any, solve: Any, prior_file: Path, tmp_path: Path) -> None:
        folder = tmp_path / "photos"
        folder.mkdir()
        for k in range(2):
            pixels = np.random.default_rng(k).integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{k}.png")
        result = invdiff("priors", "measure", prior_file, folder, "--crops", 3, "--size", 16)
        lines = result.stdout.splitlines()
        assert lines[0].split() == ["noise", "level", "error", "RMS", "predicted"]
        assert len(lines) == 2 + 20 + 1
        assert len({len(line) for line in lines[:-1]}) == 1
        prior = load_prior(prior_file)
        assert prior.error_model is not None
        assert prior.error_model.facts["images"] == ["photos"]
        first = prior.error_model.log_signal
        invdiff("priors", "measure", prior_file, folder, "--crops", 3, "--size", 16)
        again = load_prior(prior_file).error_model
        assert again is not None
        assert torch.equal(again.log_signal, first)  # The command says it all.
        problem = ("--problem", "sr", "--factor", 8, "--noise", 0.1, "--samples", 1, "-o", tmp_path / "out", "--json")
        record = solve(*problem, "--prior", prior_file).stdout
        assert '"error_model"' in record
        assert '"nvjp": 2' in record

    def test_without_images_the_prior_is_asked_for_some(self, invdiff: Any, prior_file: Path, tmp_path: Path) -> None:
        out = tmp_path / "elsewhere.safetensors"
        result = invdiff("priors", "measure", prior_file, "--crops", 2, "--size", 16, "--out", out)
        assert "drawing 2 samples of the prior" in result.stderr
        assert isinstance(read_error_model(out, prior=prior_file), ErrorModel)
        assert not errors_beside(prior_file).exists()

    def test_says_what_is_wrong(self, invdiff: Any, prior_file: Path, tmp_path: Path) -> None:
        assert "ends in .safetensors" in invdiff("priors", "measure", prior_file, "--out", "x.pt", code=2).stderr
        assert "expected a folder" in invdiff("priors", "measure", prior_file, tmp_path / "no", code=1).stderr
        errors_beside(prior_file).write_bytes(b"damaged")
        invdiff("priors", "measure", prior_file, "--crops", 2, "--size", 16)  # Replaces it.
        assert load_prior(prior_file).error_model is not None
