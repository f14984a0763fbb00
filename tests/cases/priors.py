"""Priors in closed form."""

from __future__ import annotations

import torch

from invdiff.priors import Gaussian, GaussianMixture

from .registry import cases_of


@cases_of(Gaussian, 3)
def _() -> list[Gaussian]:
    g = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=g, dtype=torch.float64) / 3
    rows, columns = torch.fft.fftfreq(6, dtype=torch.float64), torch.fft.rfftfreq(8, dtype=torch.float64)
    spectrum = 0.3 / (0.05 + rows[:, None] ** 2 + columns**2)
    dense = Gaussian(torch.randn(6, generator=g, dtype=torch.float64), root @ root.mT)
    diagonal = Gaussian(torch.randn(2, 3, generator=g, dtype=torch.float64), torch.rand(2, 3, generator=g, dtype=torch.float64))
    return [dense, diagonal, Gaussian.stationary(torch.zeros(1, 6, 8, dtype=torch.float64), spectrum.expand(1, 6, 5))]


@cases_of(GaussianMixture, 2)
def _() -> list[GaussianMixture]:
    g = torch.Generator().manual_seed(0)
    roots = torch.randn(3, 4, 4, generator=g, dtype=torch.float64) / 3
    means = 2 * torch.randn(3, 4, generator=g, dtype=torch.float64)
    weights, covs = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), roots @ roots.mT
    return [GaussianMixture(weights, means, covs), GaussianMixture(weights, means, covs.diagonal(dim1=1, dim2=2))]
