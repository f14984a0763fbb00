"""Problems with exactly known posteriors, on which ``posterior.py`` compares the samplers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from posterior_funnel import funnel
from posterior_problem import Case, Problem
from posterior_walks import walk
from torch import Tensor

from invdiff.operators import (
    Blur,
    Downsample,
    Function,
    LinearFunction,
    LinearOperator,
    Mask,
    Matrix,
    gaussian_kernel,
)
from invdiff.priors import Gaussian, GaussianMixture
from invdiff.schedules import VP, Schedule

__all__ = ["CASES"]

# From a noise-to-signal ratio of 1,000. At the usual 152, pure noise is no longer what noisy means of size 16 in 800
# dimensions look like: the exact conditional denoiser itself then ends 17 times as far off as exact samples.
WIDE = VP(0.1, 27.5)
IMAGE = (1, 32, 32)
CORRELATION = 4.0  # pixels


def mixture_prior(rng: np.random.Generator, size: int, schedule: Schedule = WIDE) -> GaussianMixture:
    """25 unit Gaussians on a grid of spacing 8, in a plane repeated ``size / 2`` times; weights squared normals."""
    grid = torch.tensor(list(itertools.product(range(-2, 3), repeat=2)), dtype=torch.float64)
    weights = torch.from_numpy(rng.standard_normal(len(grid)) ** 2)
    means = (-8 * grid).repeat(1, size // 2)
    return GaussianMixture(weights, means, torch.ones_like(means), schedule=schedule)


def mixture(draw: int, *, size: int, measured: int, schedule: Schedule = WIDE) -> Problem:
    r"""The set-up of Cardoso et al. (2024, https://arxiv.org/abs/2308.07983).

    :math:`A = U \mathrm{diag}(s) V^\top` from the SVD of a Gaussian matrix, :math:`s \sim U(0, 1)`,
    :math:`\sigma_y \sim U(0, 1) \max s`.
    """
    rng = np.random.default_rng([draw, size, measured])
    prior = mixture_prior(rng, size, schedule)
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
    posterior = GaussianMixture(part.weights[0], torch.cat([part.means[0], unseen], 1), variances, schedule=schedule)

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


def late(draw: int, *, measured: int) -> Problem:
    r"""Four Gaussians that a measurement tells apart by their covariances alone, and two numbers that are not measured.

    The means of all are 0 in what is measured, and the corners of a square of side 12 in what is not: an estimate of the mean
    that follows the data chooses the corner before the data have spoken. The standard deviations along the measured axes
    of a component are log-normal, of so little spread that the likelihoods of the components are within a factor of a hundred.
    """
    rng = np.random.default_rng([draw, measured])
    size = measured + 2
    rotation = torch.linalg.qr(torch.from_numpy(rng.standard_normal((size, size)))).Q
    means, covs = torch.zeros(4, size, dtype=torch.float64), torch.eye(size, dtype=torch.float64).repeat(4, 1, 1)
    means[:, measured:] = torch.tensor([[6.0, 6], [6, -6], [-6, 6], [-6, -6]])
    for cov in covs:
        axes = torch.linalg.qr(torch.from_numpy(rng.standard_normal((measured, measured)))).Q
        variances = torch.from_numpy(rng.lognormal(0.0, 3 / math.sqrt(measured), measured))
        cov[:measured, :measured] = axes * variances @ axes.mT
    covs = rotation @ covs @ rotation.mT
    prior = GaussianMixture(torch.ones(4, dtype=torch.float64), means @ rotation.mT, (covs + covs.mT) / 2)
    op = Matrix(rotation.mT[:measured], sigma_y=0.1)
    y = op.measure(prior.sample(1, seed=draw), seed=draw)
    batched = prior.posterior(op, y)
    posterior = GaussianMixture(batched.weights[0], batched.means[0], batched.covs)

    def modes(x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.cdist(x @ rotation[:, measured:], means[:, measured:]).argmin(1), 4).double()

    return Problem(
        score=prior,
        op=op,
        y=y,
        exact=lambda count, seed: posterior.sample(count, seed=seed),
        conditional=posterior,
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


CASES: Mapping[str, Case] = {
    **{
        f"mixture {size} {measured}": Case(partial(mixture, size=size, measured=measured))
        for size, measured in [(8, 1), (8, 2), (8, 4), (80, 1), (80, 2), (80, 4)]
    },
    "mixture 800 2": Case(partial(mixture, size=800, measured=2), draws=3),
    "mixture 80 2, VP": Case(partial(mixture, size=80, measured=2, schedule=VP())),
    **{f"late mixture {measured}": Case(partial(late, measured=measured)) for measured in (9, 16, 40)},
    "nonlinear": Case(magnitude),
    **{f"funnel {measured}": Case(partial(funnel, measured=measured)) for measured in (1, 9)},
    **{f"walk {kind}": Case(partial(walk, kind=kind), draws=5) for kind in ("blur", "gaps")},
    **{
        f"{increments} walk {kind}": Case(partial(walk, kind=kind, increments=increments, size=64), draws=5)
        for increments, kind in [("sparse", "fourier"), ("heavy", "fourier"), ("sparse", "blur")]
    },
    **{f"image {kind}": Case(partial(image, kind=kind), draws=2, share=0.2) for kind in ("mask", "blur", "pooling", "fourier")},
}
