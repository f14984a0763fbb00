"""Problems whose posterior is known exactly: what ``posterior.py`` holds every sampler to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from invdiff.operators import (
    Blur,
    Downsample,
    Function,
    LinearFunction,
    LinearOperator,
    Mask,
    Matrix,
    Operator,
    gaussian_kernel,
)
from invdiff.priors import Gaussian, GaussianMixture, ScoreModel
from invdiff.schedules import VP

__all__ = ["CASES", "Case", "Problem", "Sampled"]

# From a noise-to-signal ratio of 1,000. At the usual 152, pure noise is no longer what noisy means of size 16 in 800
# dimensions look like: the exact conditional denoiser itself then ends 17 times as far off as exact samples.
WIDE = VP(0.1, 27.5)
IMAGE = (1, 32, 32)
CORRELATION = 4.0  # pixels
STEPS = 32  # of the heavy-tailed walk
FREEDOM = 3  # degrees of freedom of its increments
BURN_IN, KEPT, THINNING = 150, 10, 10  # sweeps of a Gibbs chain: left out, draws kept, and sweeps between two of them


@dataclass(frozen=True, eq=False)
class Problem:
    """One measurement and its exact posterior.

    Attributes:
        score: The prior.
        op: The measurement.
        y: What was measured, ``(1, *out_shape)``.
        exact: ``exact(count, seed)`` returns draws of the posterior, ``(count, *event)``.
        conditional: The posterior as a prior, whose denoiser is the exact :math:`E[x_0 | x_t, y]`, where it is known.
        basis: Its coordinates are those of ``x @ basis``; ``None`` for those of ``x``.
        modes: Probabilities of the components of a mixture for every sample, ``(N, n) -> (N, K)``.
        mode_weights: Their exact posterior weights, ``(K,)``.
    """

    score: ScoreModel
    op: Operator
    y: Tensor
    exact: Callable[[int, int], Tensor]
    conditional: ScoreModel | None = None
    basis: Tensor | None = None
    modes: Callable[[Tensor], Tensor] | None = None
    mode_weights: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Sampled:
    """Samples ``(N, *event)``, with the network's evaluations and vector-Jacobian products per sample, where counted."""

    samples: Tensor
    nfe: float | None = None
    nvjp: float | None = None


@dataclass(frozen=True)
class Case:
    """A family of problems, one per draw.

    Attributes:
        build: Returns the problem of a draw.
        draws: Draws at most: a large posterior averages within one.
        share: Share of the samples asked for.
    """

    build: Callable[[int], Problem]
    draws: int = 1000
    share: float = 1.0


def mixture_prior(rng: np.random.Generator, size: int) -> GaussianMixture:
    """25 unit Gaussians on a grid of spacing 8, in a plane repeated ``size / 2`` times; weights squared normals."""
    grid = torch.tensor(list(itertools.product(range(-2, 3), repeat=2)), dtype=torch.float64)
    weights = torch.from_numpy(rng.standard_normal(len(grid)) ** 2)
    means = (-8 * grid).repeat(1, size // 2)
    return GaussianMixture(weights, means, torch.ones_like(means), schedule=WIDE)


def mixture(draw: int, *, size: int, measured: int) -> Problem:
    r"""The set-up of Cardoso et al. (2024, https://arxiv.org/abs/2308.07983).

    :math:`A = U \mathrm{diag}(s) V^\top` from the SVD of a Gaussian matrix, :math:`s \sim U(0, 1)`,
    :math:`\sigma_y \sim U(0, 1) \max s`.
    """
    rng = np.random.default_rng([draw, size, measured])
    prior = mixture_prior(rng, size)
    left, _, right = torch.linalg.svd(torch.from_numpy(rng.standard_normal((measured, size))))
    singular = torch.from_numpy(rng.random(measured))
    sigma_y = float(rng.random() * singular.max())
    op = Matrix(left * singular @ right[:measured], sigma_y=sigma_y)
    y = op.measure(prior.sample(1, seed=draw), seed=draw)

    # Among the right singular vectors the measured coordinates are conditioned alone, and all covariances stay diagonal.
    means = prior.means @ right.mT
    seen, unseen = means[:, :measured], means[:, measured:]
    part = GaussianMixture(prior.weights, seen, torch.ones_like(seen)).posterior(Matrix(left * singular, sigma_y=sigma_y), y)
    variances = torch.cat([part.covs.diagonal(dim1=1, dim2=2), torch.ones_like(unseen)], 1)
    posterior = GaussianMixture(part.weights[0], torch.cat([part.means[0], unseen], 1), variances, schedule=WIDE)

    def modes(x: Tensor) -> Tensor:
        gaps = (x @ right.mT)[:, None] - posterior.means
        # All components have the same covariance, hence no determinant.
        return (posterior.weights.log() - 0.5 * (gaps**2 / variances).sum(-1)).softmax(-1)

    return Problem(
        score=prior,
        op=op,
        y=y,
        exact=lambda count, seed: posterior.sample(count, seed=seed) @ right,
        conditional=posterior,
        basis=right.mT,
        modes=modes,
        mode_weights=posterior.weights,
    )


def image(draw: int, *, kind: str) -> Problem:
    """A stationary Gaussian image of standard deviation 0.5 and nearly exponential correlation; noise 0.05."""
    rows, columns = torch.fft.fftfreq(IMAGE[1], dtype=torch.float64), torch.fft.rfftfreq(IMAGE[2], dtype=torch.float64)
    shape = (1 + (2 * math.pi * CORRELATION) ** 2 * (rows[:, None] ** 2 + columns**2)) ** -1.5
    both = torch.full_like(columns, 2.0)  # A column of rfft2 stands for two, but for those that are their own mirror image.
    both[0] = both[-1] = 1
    spectrum = 0.25 * shape * IMAGE[1] * IMAGE[2] / (shape * both).sum()
    prior = Gaussian.stationary(torch.zeros(IMAGE, dtype=torch.float64), spectrum[None])
    op = image_operator(kind, np.random.default_rng(draw))
    y = op.measure(prior.sample(1, seed=draw), seed=draw)
    posterior = prior.posterior(op, y)
    return Problem(prior, op, y, lambda count, seed: posterior.sample(count, seed=seed)[:, 0], conditional=posterior)


def image_operator(kind: str, rng: np.random.Generator) -> LinearOperator:
    if kind == "mask":
        return Mask(rng.permutation(np.arange(IMAGE[1] * IMAGE[2]) % 2).reshape(IMAGE), sigma_y=0.05)
    if kind == "blur":
        return Blur(IMAGE, gaussian_kernel(1.5), sigma_y=0.05)
    if kind == "pooling":
        return Downsample(IMAGE, 4, sigma_y=0.05)
    # A quarter of the Fourier coefficients, without those that are real and with one of each conjugate pair: times root 2
    # their real and imaginary parts are orthonormal.
    width = IMAGE[2] // 2 - 1
    chosen = torch.from_numpy(rng.choice(IMAGE[1] * width, IMAGE[1] * IMAGE[2] // 8, replace=False))

    def coefficients(x: Tensor) -> Tensor:
        half = torch.fft.rfft2(x, norm="ortho")[..., 1 : width + 1].flatten(1)[:, chosen]
        return math.sqrt(2) * torch.cat([half.real, half.imag], 1)

    return LinearFunction(coefficients, IMAGE, sigma_y=0.05)


def magnitude(draw: int) -> Problem:
    """The absolute values of a plane of 25 Gaussians, with noise between 0.1 and 1; the posterior summed on a grid of 0.02."""
    rng = np.random.default_rng(draw)
    prior = mixture_prior(rng, 2)
    op = Function(torch.abs, (2,), sigma_y=float(rng.uniform(0.1, 1)))
    y = op.measure(prior.sample(1, seed=draw), seed=draw)
    step = 0.02
    axis = torch.arange(-24, 24, step, dtype=torch.float64) + step / 2
    seen = torch.exp(-0.5 * ((y[0, :, None] - axis.abs()) / op.sigma_y) ** 2)  # (2, cells)
    each = torch.exp(-0.5 * (axis - prior.means[..., None]) ** 2) * seen  # (K, 2, cells)
    cells = torch.einsum("k,ka,kb->ab", prior.weights, each[:, 0], each[:, 1])

    def exact(count: int, seed: int) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        chosen = torch.multinomial(cells.flatten(), count, replacement=True, generator=g)
        corner = torch.stack([axis[chosen // len(axis)], axis[chosen % len(axis)]], 1)
        return corner + step * (torch.rand(count, 2, generator=g, dtype=torch.float64) - 0.5)

    return Problem(prior, op, y, exact)


class ScaleMixture(ScoreModel):
    r"""Independent numbers :math:`u_i \sim \int \mathcal{N}(0, v)\, p(v)\, dv` with a denoiser accurate to seven digits.

    .. math:: E[u | z] = \sum_j r_j(z) \frac{v_j}{v_j + \varsigma^2} z,
        \qquad r_j \propto w_j\, \mathcal{N}(z; 0, v_j + \varsigma^2)

    for :math:`z = x_t / \alpha_t` at :math:`\varsigma = \sigma_t / \alpha_t`. Here
    :math:`1 / v \sim \mathrm{Gamma}(\nu / 2, \nu / 2)`, Student's t with :math:`\nu` degrees of freedom, by the trapezoidal
    rule in :math:`\log v`, which converges exponentially.
    """

    def __init__(self, size: int, freedom: float) -> None:
        self.schedule, self.event_shape = VP(), (size,)
        log_v = torch.linspace(math.log(0.02), math.log(1e7), 64, dtype=torch.float64)
        self.variances = log_v.exp()
        # The density of log v, which holds one power of v less in the denominator than that of v.
        self.log_weights = -freedom / 2 * (log_v + 1 / self.variances)

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = self.levels(t, x_t[..., None])
        variances = alpha_t**2 * self.variances.to(x_t) + sigma_t**2
        x = x_t[..., None]
        r = (self.log_weights.to(x_t) - 0.5 * (variances.log() + x**2 / variances)).softmax(-1)
        return (r * (alpha_t * self.variances.to(x_t) / variances)).sum(-1) * x_t


def walk(draw: int, *, kind: str) -> Problem:
    r"""A random walk with Student increments, blurred or with gaps: the sparse signals of https://arxiv.org/abs/2509.12821.

    There the diffusion acts on the walk, and its denoiser is a Gibbs sampler run for every state. Here it acts on the
    independent increments, and the operator sums them up: the same posterior, with a denoiser accurate to seven digits.
    The reference is Gibbs sampling of increments and their variances, exact but for the length of its chains.
    """
    rng = np.random.default_rng(draw)
    sums = torch.ones(STEPS, STEPS, dtype=torch.float64).tril()
    if kind == "blur":
        places = torch.arange(STEPS, dtype=torch.float64)
        kernel = torch.exp(-0.5 * ((places[:, None] - places) / 2) ** 2)
        matrix = kernel / kernel.sum(1, keepdim=True) @ sums
    else:
        matrix = sums[np.sort(rng.choice(STEPS, STEPS // 3, replace=False))]
    op = Matrix(matrix, sigma_y=0.3)
    y = op.measure(torch.from_numpy(rng.standard_t(FREEDOM, (1, STEPS))), seed=draw)
    return Problem(ScaleMixture(STEPS, FREEDOM), op, y, partial(gibbs, matrix, op.sigma_y, y[0]))


def gibbs(matrix: Tensor, sigma_y: float, y: Tensor, count: int, seed: int) -> Tensor:
    r"""Draw increments: :math:`u | v, y`, Gaussian (by Matheron's rule), and :math:`v | u`, inverse gamma, in turn."""
    chains, measured = -(-count // KEPT), len(matrix)
    g = torch.Generator().manual_seed(seed)
    normal = partial(torch.randn, generator=g, dtype=torch.float64)
    v = torch.ones(chains, STEPS, dtype=torch.float64)
    kept = []
    for sweep in range(1, BURN_IN + KEPT * THINNING + 1):
        u = v.sqrt() * normal(chains, STEPS)
        covariance = (matrix * v[:, None]) @ matrix.mT + sigma_y**2 * torch.eye(measured, dtype=torch.float64)
        misfit = y - u @ matrix.mT - sigma_y * normal(chains, measured)
        root = torch.linalg.cholesky(covariance)
        u = u + v * (torch.cholesky_solve(misfit[..., None], root)[..., 0] @ matrix)
        # With three degrees of freedom 1 / v is of shape 2: a sum of two exponentials.
        exponentials = -torch.rand(2, chains, STEPS, generator=g, dtype=torch.float64).log().sum(0)
        v = (FREEDOM + u**2) / 2 / exponentials
        if sweep > BURN_IN and sweep % THINNING == 0:
            kept.append(u)
    return torch.cat(kept)[torch.randperm(chains * KEPT, generator=g)[:count]]


CASES: Mapping[str, Case] = {
    **{
        f"mixture {size} {measured}": Case(partial(mixture, size=size, measured=measured))
        for size, measured in [(8, 1), (8, 2), (8, 4), (80, 1), (80, 2), (80, 4)]
    },
    "mixture 800 2": Case(partial(mixture, size=800, measured=2), draws=3),
    "nonlinear": Case(magnitude),
    **{f"walk {kind}": Case(partial(walk, kind=kind), draws=5) for kind in ("blur", "gaps")},
    **{f"image {kind}": Case(partial(image, kind=kind), draws=2, share=0.2) for kind in ("mask", "blur", "pooling", "fourier")},
}
