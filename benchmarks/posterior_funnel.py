"""Squares of values under a funnel: the measurement does not determine the signs, and determines the scale only roughly."""

from __future__ import annotations

import numpy as np
import torch
from posterior_problem import Problem
from torch import Tensor

from invdiff.operators import Function
from invdiff.priors import GaussianMixture

__all__ = ["funnel"]

CELLS = 2000  # of the quadrature of every number


def funnel(draw: int, *, measured: int) -> Problem:
    r"""Neal's funnel, as a mixture, and :math:`y_i = x_i^2 + n_i`, noise 0.3.

    .. math:: v \sim \mathcal{N}(0, 1.5^2), \qquad x_i | v \sim \mathcal{N}(0, e^v)

    The law of :math:`v` is a mixture of 41 Gaussians with a standard deviation of 0.15, :math:`e^v` taken at their centers:
    so the denoiser is exact. Given a component the numbers are independent, and summed each on a grid of their own.
    """
    centers = torch.linspace(-4.5, 4.5, 41, dtype=torch.float64)
    width, sigma_y, size = 0.15, 0.3, measured + 1
    weights = torch.exp(-0.5 * centers**2 / (1.5**2 - width**2))
    means, variances = torch.zeros(41, size, dtype=torch.float64), centers.exp()[:, None].repeat(1, size)
    means[:, 0], variances[:, 0] = centers, width**2
    prior = GaussianMixture(weights, means, variances)
    op = Function(lambda x: x[:, 1:] ** 2, (size,), sigma_y=sigma_y)
    y = op.measure(prior.sample(1, seed=np.random.default_rng(draw).integers(1000).item()), seed=draw)

    reach = float(y.clamp(min=0).max().sqrt()) + 5 * sigma_y**0.5
    edges = torch.linspace(-reach, reach, CELLS + 1, dtype=torch.float64)
    middles, step = (edges[:-1] + edges[1:]) / 2, float(edges[1] - edges[0])
    log_seen = -0.5 * ((y[0, :, None] - middles**2) / sigma_y) ** 2  # (d, cells)
    log_prior = -0.5 * (middles**2 / variances[:, 1:2] + variances[:, 1:2].log())  # (K, cells)
    log_cells = log_seen + log_prior[:, None]  # (K, d, cells)
    component = (prior.weights.log() + log_cells.logsumexp(-1).sum(1)).softmax(0)

    def exact(count: int, seed: int) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        chosen = torch.multinomial(component, count, replacement=True, generator=g)
        x = torch.empty(count, size, dtype=torch.float64)
        x[:, 0] = centers[chosen] + width * torch.randn(count, generator=g, dtype=torch.float64)
        for i in range(measured):
            cell = torch.multinomial(log_cells[chosen, i].softmax(-1), 1, generator=g).squeeze(1)
            x[:, i + 1] = middles[cell] + step * (torch.rand(count, generator=g, dtype=torch.float64) - 0.5)
        return x

    return Problem(prior, op, y, exact)
