"""Laws of the pivot: one Gaussian look that says what a noisy state and a measurement say together."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from cases import build, over, selected
from helpers import randn
from torch import Tensor
from torch.testing import assert_close

from invdiff.linalg import dense_matrix, over_items
from invdiff.noise_covariance import NOISE_KINDS, NoiseCovariance
from invdiff.operators import Blur, GaussianNoise, LinearOperator, Mask, Matrix, gaussian_kernel, whiten
from invdiff.operators.algebra.per_item import PerItem
from invdiff.priors import Gaussian, GaussianMixture, ScoreModel

EVERY = over("op", selected(LinearOperator, lambda cls: not issubclass(cls, PerItem)))


def with_noise(op: LinearOperator, sigma_y: float) -> LinearOperator:
    noisy = op.take([0]) if op.items is not None else op
    noisy = noisy.to(dtype=torch.float64)
    noisy.noise = GaussianNoise(sigma_y)
    return noisy


def matrix_of(op: LinearOperator) -> Tensor:
    return dense_matrix(op.adjoint, op.out_shape, dtype=torch.float64, device=torch.device("cpu")).mT


@EVERY
class TestPivot:
    @pytest.mark.parametrize("sigma_y", [0.3, 1e-2])
    def test_mean_and_covariance_are_those_of_the_two_looks(self, op: LinearOperator, sigma_y: float) -> None:
        op, ratio = with_noise(op, sigma_y), torch.tensor([0.1, 3.0], dtype=torch.float64)
        x, y = randn(2, *op.in_shape, seed=1), op.keep_measured(randn(2, *op.out_shape, seed=2))
        found = op.pivot(x, ratio, y)
        assert found is not None
        mu, cov = found
        a = matrix_of(op)
        precision = torch.eye(a.shape[1]).double() / ratio[:, None, None] ** 2 + a.mT @ a / sigma_y**2
        expected = torch.linalg.inv(precision)
        assert_close(cov.matrix(op.in_shape), expected, rtol=1e-6, atol=1e-7 * float(expected.abs().max()))
        shift = x.flatten(1) / ratio[:, None] ** 2 + y.flatten(1) @ a / sigma_y**2
        assert_close(mu.flatten(1), torch.linalg.solve(precision, shift), rtol=1e-6, atol=1e-7)

    def test_exact_data_are_the_limit_of_precise_ones(self, op: LinearOperator) -> None:
        x = randn(2, *op.in_shape, seed=1)
        exact, precise = (with_noise(op, sigma) for sigma in (0.0, 1e-7))
        y = exact(randn(2, *op.in_shape, seed=3))
        pairs = [one.pivot(x, 0.7, y) for one in (exact, precise)]
        (mu, cov), (near, near_cov) = cast(Any, pairs)
        assert_close(mu, near, rtol=1e-4, atol=1e-4)
        assert_close(cov.matrix(op.in_shape), near_cov.matrix(op.in_shape), rtol=1e-4, atol=1e-4)
        assert_close(exact(mu), y, rtol=1e-9, atol=1e-9)  # What is known is kept.

    def test_items_are_independent(self, op: LinearOperator) -> None:
        op = with_noise(op, 0.2)
        x, y, ratio = randn(3, *op.in_shape, seed=1), randn(3, *op.out_shape, seed=2), torch.tensor([0.1, 1.0, 9.0]).double()
        mu, cov = cast(Any, op.pivot(x, ratio, y))
        for b in range(3):
            alone, alone_cov = cast(Any, op.pivot(x[b : b + 1], float(ratio[b]), y[b : b + 1]))
            assert_close(alone[0], mu[b], rtol=1e-12, atol=1e-12)
            assert_close(alone_cov.levels[0], cov.levels[b], rtol=1e-12, atol=1e-12)
            assert_close(alone_cov.largest[0], cov.largest[b])


@pytest.mark.slow
def test_variances_of_pixels_and_frequencies_are_those_of_the_matrix() -> None:
    ops = [case.build() for case in selected(LinearOperator, lambda cls: not issubclass(cls, PerItem))]
    known = [op for op in ops if op.svd is not None and op.svd.kind != "dense"]
    assert {"pixel", "frequency", "decimation"} <= {op.svd.kind for op in known}
    for op in known:
        check_variances(op)


def check_variances(op: LinearOperator) -> None:
    op = with_noise(op, 0.2)
    ratio = torch.tensor([0.3, 2.0], dtype=torch.float64)
    _, cov = cast(Any, op.pivot(randn(2, *op.in_shape), ratio, randn(2, *op.out_shape)))
    matrix = cov.matrix(op.in_shape)
    diagonal = matrix.diagonal(dim1=1, dim2=2).reshape(2, *op.in_shape)
    assert_close(cov.pixel_levels().expand(2, *op.in_shape), diagonal.sqrt(), rtol=1e-9, atol=1e-12)
    assert cov.kind in NOISE_KINDS
    if cov.kind == "pixel" or len(op.in_shape) != 3:
        return
    channels, height, width = op.in_shape
    waves = torch.fft.rfft2(torch.eye(height * width).double().reshape(-1, height, width), norm="ortho").flatten(1)
    blocks = matrix.reshape(2, channels, height * width, channels, height * width)
    for c in range(channels):
        power = torch.einsum("iw,bij,jw->bw", waves.conj(), blocks[:, c, :, c].to(waves), waves).real
        found = cov.frequency_levels().expand(2, channels, height, -1)[:, c].flatten(1)
        assert_close(found, power.sqrt(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("sigma_y", [1.0, 1e-2, 0.0])
@pytest.mark.parametrize("kind", ["mask", "matrix", "own"])
@over("prior", selected(ScoreModel))
def test_the_denoiser_of_the_pivot_is_the_exact_conditional_one(prior: Any, kind: str, sigma_y: float) -> None:
    event = tuple(prior.event_shape)
    size = torch.Size(event).numel()
    op: LinearOperator
    if kind == "mask":
        op = Mask((torch.arange(size) % 3 != 1).reshape(event), sigma_y=sigma_y)
    elif kind == "matrix":
        op = cast(LinearOperator, Matrix(randn(3, size, seed=5), sigma_y=sigma_y))
        if len(event) > 1:
            op = cast(LinearOperator, op @ Flat(event))
    elif len(event) == 3:
        op = Blur(event, gaussian_kernel(0.6, 3), sigma_y=sigma_y)
    else:
        noise = GaussianNoise(0.1 + sigma_y * torch.rand(event, generator=torch.Generator().manual_seed(3)).double())
        op = cast(LinearOperator, whiten(Mask(torch.arange(size).reshape(event) % 2 == 0, noise=noise)))
    op = op.to(dtype=torch.float64)
    for ratio in (0.05, 0.8, 20.0):
        t = prior.schedule.time(torch.tensor(ratio, dtype=torch.float64))
        alpha, sigma = prior.schedule(t)
        x_0 = prior.sample(3, seed=1)
        x_t, y = alpha * x_0 + sigma * randn(3, *event, seed=2), op.measure(x_0, seed=3)
        mu, cov = cast(Any, op.pivot(x_t / alpha, sigma / alpha, y))
        exact = prior.posterior(op, y).denoise(x_t, t)
        assert_close(prior.denoise_pivot(mu, cov), exact, rtol=1e-6, atol=2e-6)
        other = prior.posterior(op, y.roll(1, 0)).denoise(x_t, t)
        assert not torch.allclose(prior.denoise_pivot(mu, cov), other, rtol=1e-6, atol=2e-6)  # The check can fail.


class Flat(LinearOperator):
    """Of any shape to a vector: what a matrix takes."""

    def __init__(self, event: tuple[int, ...]) -> None:
        self.in_shape, self.out_shape, self.noise = event, (torch.Size(event).numel(),), GaussianNoise(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def adjoint(self, y: Tensor) -> Tensor:
        return y.reshape(-1, *self.in_shape)


def test_white_noise_is_the_plain_denoiser() -> None:
    for prior in (*build(Gaussian), *build(GaussianMixture)):
        event = tuple(cast(Any, prior.event_shape))
        t = prior.schedule.time(torch.tensor(0.7, dtype=torch.float64))
        alpha, sigma = prior.schedule(t)
        x_t = randn(2, *event)
        everything = Mask(torch.ones(event), sigma_y=1e9)
        mu, cov = cast(Any, everything.pivot(x_t / alpha, sigma / alpha, torch.zeros_like(x_t)))
        assert_close(prior.denoise_pivot(mu, cov), prior.denoise(x_t, t), rtol=1e-8, atol=1e-8)


def test_what_a_prior_does_not_know_is_refused() -> None:
    class Plain(ScoreModel):
        schedule = build(Gaussian)[0].schedule

        def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
            return x_t

    mask = Mask(torch.tensor([1, 0, 1]), sigma_y=0.1)
    mu, cov = cast(tuple[Tensor, NoiseCovariance], mask.pivot(randn(1, 3), 0.5, randn(1, 3)))
    with pytest.raises(ValueError, match="pixel noise is not supported, only"):
        Plain().denoise_pivot(mu, cov)


def test_levels_clamp() -> None:
    mask = Mask(torch.tensor([1, 0, 1]))
    _, cov = cast(Any, mask.pivot(randn(2, 3), torch.tensor([0.5, 200.0]).double(), randn(2, 3)))
    clamped = cov.clamp(0.002, 80.0)
    assert_close(clamped.largest, torch.tensor([0.5, 80.0]).double())
    assert_close(clamped.levels.amin(1), torch.full((2,), 0.002).double())
    assert_close(cov.levels.amin(1), torch.zeros(2).double())
    assert_close(over_items(clamped.largest, clamped.levels), clamped.levels.amax(1, keepdim=True))
