"""Slices of a volume as channels under a prior of images, coupled along the axis: exact where everything is Gaussian."""

from __future__ import annotations

import math

import torch
from helpers import randn
from torch import Tensor

from invdiff import PosteriorSampler
from invdiff.linalg import dense_matrix
from invdiff.operators import FiniteDifferences, LinearOperator, Mask, stack
from invdiff.priors import Gaussian

DEPTH, SLICE, COUNT = 3, (1, 3, 4), 1500
SHAPE = (DEPTH, *SLICE[1:])
MASK = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) < 0.5


def slices() -> tuple[Gaussian, Tensor]:
    """Return a prior of one slice, and the covariance of a volume of independent slices."""
    root = randn(12, 12, seed=2) / 4
    cov = root @ root.mT + 0.05 * torch.eye(12, dtype=torch.float64)
    return Gaussian(torch.zeros(SLICE, dtype=torch.float64), cov), torch.block_diag(*[cov] * DEPTH)


def check(op: LinearOperator, y: Tensor, deviations: Tensor) -> None:
    prior, cov = slices()
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


def test_slices_alone() -> None:
    seen = Mask(MASK, SHAPE, sigma_y=0.2)
    y = seen.keep_measured(randn(1, *SHAPE, seed=3))
    check(seen, y, torch.full(SHAPE, 0.2, dtype=torch.float64))


def test_slices_that_are_alike() -> None:
    seen = Mask(MASK, SHAPE, sigma_y=0.2)
    alike = FiniteDifferences(SHAPE, axes=(0,), boundary="replicate", sigma_y=0.3)
    y = torch.cat([seen.keep_measured(randn(1, *SHAPE, seed=3)).flatten(1), torch.zeros(1, 36, dtype=torch.float64)], 1)
    check(stack([seen, alike]), y, torch.cat([torch.full((36,), sigma, dtype=torch.float64) for sigma in (0.2, 0.3)]))
