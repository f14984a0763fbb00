"""Random walks with sparse or heavy-tailed increments: the signals of https://arxiv.org/abs/2509.12821."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from posterior_problem import Problem
from torch import Tensor

from invdiff.operators import Matrix
from invdiff.priors import ScoreModel
from invdiff.schedules import VP

__all__ = ["gibbs", "walk"]

BURN_IN, KEPT, THINNING = 60, 10, 6  # sweeps of a Gibbs chain: left out, draws kept, and sweeps between two of them


class ScaleMixture(ScoreModel):
    r"""Independent numbers :math:`u_i \sim \sum_j w_j\, \mathcal{N}(0, v_j)`.

    .. math:: E[u | z] = \sum_j r_j(z) \frac{v_j}{v_j + \varsigma^2} z,
        \qquad r_j \propto w_j\, \mathcal{N}(z; 0, v_j + \varsigma^2)

    for :math:`z = x_t / \alpha_t` at :math:`\varsigma = \sigma_t / \alpha_t`.

    Args:
        size: How many numbers.
        variances: :math:`v`, ``(K,)``; 0 is allowed.
        log_weights: :math:`\log w` up to a constant, ``(K,)``.
    """

    def __init__(self, size: int, variances: Tensor, log_weights: Tensor) -> None:
        self.schedule, self.event_shape = VP(), (size,)
        self.variances, self.log_weights = variances, log_weights.log_softmax(0)

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = self.levels(t, x_t[..., None])
        variances = alpha_t**2 * self.variances.to(x_t) + sigma_t**2
        x = x_t[..., None]
        r = (self.log_weights.to(x_t) - 0.5 * (variances.log() + x**2 / variances)).softmax(-1)
        return (r * (alpha_t * self.variances.to(x_t) / variances)).sum(-1) * x_t


def student(size: int, freedom: float) -> ScaleMixture:
    r"""Return Student's t of :math:`\nu` degrees of freedom, to seven digits.

    :math:`1 / v \sim \mathrm{Gamma}(\nu / 2, \nu / 2)`, by the trapezoidal rule in :math:`\log v`, which converges
    exponentially.
    """
    log_v = torch.linspace(math.log(0.02), math.log(1e7), 64, dtype=torch.float64)
    # The density of log v, which holds one power of v less in the denominator than that of v.
    return ScaleMixture(size, log_v.exp(), -freedom / 2 * (log_v + 1 / log_v.exp()))


def sparse(size: int) -> ScaleMixture:
    """Return numbers that are 0 nine times out of ten, and of standard deviation 3 otherwise."""
    return ScaleMixture(size, torch.tensor([0.0, 9.0]).double(), torch.tensor([0.9, 0.1]).double().log())


INCREMENTS: Mapping[str, Callable[[int], ScaleMixture]] = {"heavy": partial(student, freedom=3), "sparse": sparse}


def walk(draw: int, *, kind: str, increments: str = "heavy", size: int = 32) -> Problem:
    r"""A random walk, blurred, with gaps, or seen by 16 Fourier numbers.

    In the paper the diffusion acts on the walk, and its denoiser is a Gibbs sampler run for every state. Here it acts on the
    independent increments, and the operator sums them up: the same posterior, with a denoiser accurate to seven digits.
    """
    rng = np.random.default_rng(draw)
    prior = INCREMENTS[increments](size)
    sums = torch.ones(size, size, dtype=torch.float64).tril()
    if kind == "blur":
        places = torch.arange(size, dtype=torch.float64)
        kernel = torch.exp(-0.5 * ((places[:, None] - places) / 2) ** 2)
        matrix = kernel / kernel.sum(1, keepdim=True) @ sums
    elif kind == "gaps":
        matrix = sums[np.sort(rng.choice(size, size // 3, replace=False))]
    else:  # Real and imaginary parts of 8 of the frequencies; times root 2 they are orthonormal.
        chosen = np.sort(rng.choice(np.arange(1, size // 2), 8, replace=False))
        waves = torch.fft.rfft(torch.eye(size, dtype=torch.float64), norm="ortho").mT[chosen]
        matrix = math.sqrt(2) * torch.cat([waves.real, waves.imag]) @ sums
    op = Matrix(matrix, sigma_y=0.3)
    if increments == "heavy":
        truth = rng.standard_t(3, (1, size))
    else:
        truth = 3 * rng.standard_normal((1, size)) * (rng.random((1, size)) < 0.1)
    y = op.measure(torch.from_numpy(truth), seed=draw)
    return Problem(prior, op, y, partial(gibbs, prior, matrix, op.sigma_y, y[0]))


def gibbs(prior: ScaleMixture, matrix: Tensor, sigma_y: float, y: Tensor, count: int, seed: int) -> Tensor:
    r"""Draw increments given :math:`y`: their variances one by one, the increments themselves summed out, then all of them.

    .. math:: p(v_i = v | v_{-i}, y) \propto w(v)\, (1 + v q)^{-1/2} \exp \frac{v r^2}{2 (1 + v q)}, \quad
        q = a_i^\top C^{-1} a_i, \quad r = a_i^\top C^{-1} y, \quad C = \sigma_y^2 I + \sum_{j \ne i} v_j a_j a_j^\top

    With the increments summed out, chains pass from zero to large as freely as the measurement allows. Exact but for the
    length of the chains, which start at draws of the prior.

    References:
        George & McCulloch, Approaches for Bayesian Variable Selection, 1997, section 4 (sampling with the coefficients
        integrated out), Statistica Sinica 7
    """
    measured, size = matrix.shape
    chains = -(-count // KEPT)
    g = torch.Generator().manual_seed(seed)
    normal = partial(torch.randn, generator=g, dtype=torch.float64)
    weights, values = prior.log_weights.exp(), prior.variances
    v = values[torch.multinomial(weights, chains * size, replacement=True, generator=g)].reshape(chains, size)
    identity, kept = torch.eye(measured, dtype=torch.float64), []
    for sweep in range(1, BURN_IN + KEPT * THINNING + 1):
        inverse = torch.linalg.inv((matrix * v[:, None]) @ matrix.mT + sigma_y**2 * identity)
        for i in torch.randperm(size, generator=g).tolist():
            a = matrix[:, i]
            column = inverse @ a
            q, r = column @ a, column @ y
            left = 1 - v[:, i] * q  # Without v_i, by Sherman and Morrison.
            q_left, r_left = q / left, r / left
            grown = 1 + values * q_left[:, None]
            log_p = prior.log_weights - 0.5 * grown.log() + 0.5 * values * r_left[:, None] ** 2 / grown
            new = values[torch.multinomial(log_p.softmax(1), 1, generator=g).squeeze(1)]
            change = new - v[:, i]
            inverse = inverse - (change / (1 + change * q))[:, None, None] * column[:, :, None] * column[:, None, :]
            v[:, i] = new
        if sweep > BURN_IN and (sweep - BURN_IN) % THINNING == 0:
            u = v.sqrt() * normal(chains, size)
            covariance = (matrix * v[:, None]) @ matrix.mT + sigma_y**2 * identity
            misfit = y - u @ matrix.mT - sigma_y * normal(chains, measured)
            kept.append(u + v * (torch.linalg.solve(covariance, misfit[..., None])[..., 0] @ matrix))
    return torch.cat(kept)[torch.randperm(chains * KEPT, generator=g)[:count]]
