"""Volumes and clips, coupled along the axis of their slices: exact where everything is Gaussian, else against quadrature."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import randn
from torch import Tensor

from invdiff import PosteriorSampler
from invdiff.linalg import dense_matrix
from invdiff.operators import FiniteDifferences, LaplaceNoise, LinearOperator, Mask, stack
from invdiff.priors import Gaussian

DEPTH, COUNT = 3, 1500
# Shapes of a slice and of the stack, and the axis of the slices in it.
LAYOUTS = {
    "channels": ((1, 3, 4), (DEPTH, 3, 4), 0),
    "gray volume": ((1, 3, 4), (1, DEPTH, 3, 4), 1),
    "color clip": ((3, 2, 2), (3, DEPTH, 2, 2), 1),
}


def slices(layout: str) -> tuple[Gaussian, Tensor]:
    """Return a prior of one slice, and the covariance of a stack of independent slices."""
    event, shape, axis = LAYOUTS[layout]
    root = randn(12, 12, seed=2) / 4
    cov = root @ root.mT + 0.05 * torch.eye(12, dtype=torch.float64)
    whole = torch.zeros(12 * DEPTH, 12 * DEPTH, dtype=torch.float64)
    for place in torch.arange(12 * DEPTH).reshape(shape).movedim(axis, 0).reshape(DEPTH, 12):
        whole[place[:, None], place] = cov
    return Gaussian(torch.zeros(event, dtype=torch.float64), cov), whole


def check(layout: str, op: LinearOperator, y: Tensor, deviations: Tensor) -> None:
    prior, cov = slices(layout)
    matrix = dense_matrix(op.adjoint, op.out_shape, dtype=torch.float64, device=torch.device("cpu")).mT
    kept = matrix.square().sum(1) > 0  # What is not measured says nothing.
    a, noise = matrix[kept], deviations.flatten()[kept] ** 2
    gain = cov @ a.mT @ torch.linalg.inv(a @ cov @ a.mT + noise.diag())
    mean, left = gain @ y[0].flatten()[kept], cov - gain @ a @ cov
    samples = PosteriorSampler(prior, op, method="mmps").run(y, num_samples=COUNT, seed=0).samples[:, 0].flatten(1)
    spread = left.diagonal().sqrt()
    assert ((samples.mean(0) - mean).abs() < 5 * spread / math.sqrt(COUNT)).all()
    gap = (samples.mT.cov() - left).abs() / (spread[:, None] * spread)
    assert gap.max() < 6 * math.sqrt(2 / COUNT)


def measured(shape: tuple[int, ...]) -> tuple[Mask, Tensor]:
    seen = Mask(torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5, sigma_y=0.2)
    return seen, seen.keep_measured(randn(1, *shape, seed=3))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_slices_alone(layout: str) -> None:
    shape = LAYOUTS[layout][1]
    seen, y = measured(shape)
    check(layout, seen, y, torch.full(shape, 0.2, dtype=torch.float64))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_slices_that_are_alike(layout: str) -> None:
    _, shape, axis = LAYOUTS[layout]
    seen, y = measured(shape)
    alike = FiniteDifferences(shape, axes=(axis,), boundary="replicate", sigma_y=0.3)
    y = torch.cat([y.flatten(1), torch.zeros(1, 36, dtype=torch.float64)], 1)
    deviations = torch.cat([torch.full((36,), sigma, dtype=torch.float64) for sigma in (0.2, 0.3)])
    check(layout, stack([seen, alike]), y, deviations)


@pytest.mark.parametrize(
    ("method", "options", "count", "tolerance"),
    [("mmps", {}, COUNT, 0.15), ("daps", {"steps": 20, "langevin_steps": 30}, 400, 0.4)],
    ids=["mmps", "daps"],
)
def test_total_variation(method: str, options: dict[str, Any], count: int, tolerance: float) -> None:
    """Differences with Laplace noise: the density is known by quadrature over two slices of one pixel."""
    shape, scale, sigma, spread = (1, 2, 1, 1), 0.15, 0.2, 0.6
    prior = Gaussian(torch.zeros(1, 1, 1), torch.full((1, 1, 1), spread**2))
    seen = Mask(torch.tensor([1, 1]).reshape(shape), sigma_y=sigma)
    alike = FiniteDifferences(shape, axes=(1,), boundary="replicate", noise=LaplaceNoise(scale))
    y = torch.tensor([[0.5, -0.1, 0.0, 0.0]])
    a, b = torch.meshgrid(2 * [torch.linspace(-2, 2, 801, dtype=torch.float64)], indexing="ij")
    log_p = -(a**2 + b**2) / (2 * spread**2) - ((a - 0.5) ** 2 + (b + 0.1) ** 2) / (2 * sigma**2) - (b - a).abs() / scale
    p = log_p.exp() / log_p.exp().sum()
    post = PosteriorSampler(prior, stack([seen, alike]), method=method, **options).run(y, num_samples=count, seed=0)
    first, second = post.samples[:, 0].double().flatten(1).mT
    for exact, drawn in ((a, first), (b, second), ((b - a).abs(), (second - first).abs())):
        mean = float((p * exact).sum())
        deviation = float((p * (exact - mean) ** 2).sum()) ** 0.5
        assert abs(float(drawn.mean()) - mean) < tolerance * deviation
        assert abs(float(drawn.std()) / deviation - 1) < tolerance


class TestSharedNoise:
    count, event, shape = 400, (1, 2, 2), (1, DEPTH, 2, 2)
    seen = Mask(torch.tensor([[1, 0], [1, 1]]).bool(), shape, sigma_y=0.2)

    def samples(self, y: Tensor, *, shared_noise: bool) -> Tensor:
        root = randn(4, 4, seed=2) / 2
        prior = Gaussian(torch.zeros(self.event, dtype=torch.float64), root @ root.mT + 0.05 * torch.eye(4))
        sampler = PosteriorSampler(prior, self.seen, method="mmps", steps=10)
        return sampler.run(y, num_samples=self.count, seed=0, shared_noise=shared_noise).samples[:, 0]

    def test_equal_slices_stay_equal(self) -> None:
        y = self.seen.keep_measured(randn(1, 1, 1, 2, 2, seed=3).expand(1, *self.shape))
        shared, own = (self.samples(y, shared_noise=shared) for shared in (True, False))
        assert torch.allclose(shared, shared[:, :, :1].expand_as(shared), atol=1e-6)
        assert (own.diff(dim=2).abs().flatten(1).amax(1) > 1e-3).all()

    def test_every_slice_has_its_own_distribution(self) -> None:
        y = self.seen.keep_measured(randn(1, *self.shape, seed=3))
        shared, own = (self.samples(y, shared_noise=shared) for shared in (True, False))
        spread = own.std(0)
        assert ((shared.mean(0) - own.mean(0)).abs() < 5 * spread * math.sqrt(2 / self.count)).all()
        assert ((shared.std(0) / spread - 1).abs() < 5 / math.sqrt(self.count)).all()

    def test_refused(self) -> None:
        flat = Gaussian(torch.zeros(4), torch.ones(4))
        op = Mask(torch.ones(4), sigma_y=0.2)
        with pytest.raises(ValueError, match="shared_noise is for the slices of volumes and clips"):
            PosteriorSampler(flat, op, method="mmps").run(torch.zeros(1, 4), shared_noise=True)
        prior = Gaussian(torch.zeros(self.event), torch.ones(self.event))
        with pytest.raises(ValueError, match="weighs particles by noise of their own"):
            PosteriorSampler(prior, self.seen, method="tds").run(torch.zeros(1, *self.shape), shared_noise=True)
