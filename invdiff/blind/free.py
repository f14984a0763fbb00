r"""Any kernel on the simplex: stochastic gradients of the evidence, at noise levels that fall.

One step adds noise of one level to one window of the measurement, and differentiates the integrand of
:mod:`invdiff.blind.evidence` with respect to the kernel, through the denoiser. The kernel moves to

.. math:: \arg\min_{k'} \; \bar g^\top k' + \tfrac{1}{2 \eta} (k' - k)^\top P (k' - k) \quad \text{on the simplex}

with :math:`\bar g` the mean of the recent gradients and :math:`P` the autocorrelation of :math:`E[x | z_s]`: the metric of
least squares, in which all frequencies of the kernel move equally fast.

The search goes from coarse to fine: it starts with the measurement reduced until the kernel spans few pixels, and each kernel,
enlarged, is the start at the next resolution. High noise levels see the coarse shape and have no other minima nearby; low ones
see details. It stops at a level where networks are still accurate: below, they expect the noise of smoother kernels than
camera shake (``docs/methods.md``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from invdiff.blind.evidence import Noise, noise_for
from invdiff.blind.simplex import centered, doubled, on_torus, proximal_step, pruned
from invdiff.blind.windows import Window
from invdiff.noise_covariance import NoiseCovariance
from invdiff.operators.blur.convolution import HartleySVD
from invdiff.operators.blur.kernels import gaussian_kernel
from invdiff.operators.core.pivot import pivot_levels
from invdiff.priors import ScoreModel

__all__ = ["FURTHER", "Resolution", "SearchedKernels", "evidence_of_kernel", "halvings", "search_kernel", "steps_at"]

COARSE = 23  # Kernels up to this side are not reduced further.
START = 1.5  # Standard deviation of the kernel at the start, in pixels of the first resolution
HIGHEST, HIGH, LOWEST = 0.3, 0.2, 0.05  # Levels of the noise, on [-1, 1]: first of all, first of later resolutions, last
STEPS, COARSE_STEPS = 130, 80  # At full resolution, at others
HELD = 0.25  # Share of the steps at the lowest level
FURTHER = 6  # Steps between the kernels that are returned as samples
STRIDE, MEMORY = 50.0, 0.7  # eta, and the weight of the earlier gradients in their mean
FLOOR = 0.02  # Added to P, relative to its mean
FAINT = 0.05  # Values of the kernel below this share of its largest are taken for noise of the estimate.
PRUNED = 20  # They are set to 0 after so many steps, in the second half of the walk, and at its end.


@dataclass(frozen=True, eq=False)
class Resolution:
    """The measurement at one resolution.

    Attributes:
        score: The prior, for images of the size of the windows.
        windows: Parts of the picture, used in turn.
        size: Side of the kernels.
        sigma_y: Noise level.
        steps: Number of steps.
    """

    score: ScoreModel
    windows: Sequence[Window]
    size: int
    sigma_y: float
    steps: int

    @property
    def lowest(self) -> float:
        """The last noise level of the walk."""
        return max(LOWEST, 1.5 * self.sigma_y)


@dataclass(frozen=True, eq=False)
class SearchedKernels:
    """Kernels found by :func:`search_kernel`.

    Attributes:
        kernels: The kernel at the end, and later ones of the same walk, ``(count, size, size)``; pruned and centered.
        evidence: Negative log evidence of the first one relative to no blur, per measured value; negative: better.
    """

    kernels: Tensor
    evidence: float


def halvings(size: int) -> int:
    """Return how many times the measurement is reduced by 2 before the search for kernels of this side begins."""
    return max(0, math.ceil(math.log2(size / COARSE)))


def steps_at(halvings: int) -> int:
    """Return the number of steps where the measurement is reduced by 2 so many times."""
    return COARSE_STEPS if halvings else STEPS


def search_kernel(
    resolutions: Sequence[Resolution],
    *,
    ratio: float,
    count: int,
    generator: np.random.Generator,
    report: Callable[[Window], object] = lambda _: None,
) -> SearchedKernels:
    """Look for the kernel of a picture.

    Args:
        resolutions: The measurement from coarse to fine, each with twice as many pixels along a side as the one before.
        ratio: Noise-to-signal ratio of the state without information.
        count: Number of kernels.
        generator: Source of the random seeds.
        report: Called after every step with the window it used.
    """
    first, last = resolutions[0], resolutions[-1]

    def walked(kernel: Tensor, place: Resolution) -> _Walk:
        walk = _Walk(kernel, place, ratio, generator, HIGHEST if place is first else HIGH, report)
        for step in range(place.steps):
            walk.step(pruning=2 * step >= place.steps and (step + 1) % PRUNED == 0)
        return walk

    kernel, found = gaussian_kernel(START, first.size).to(first.windows[0].y), list[Tensor]()
    walk = walked(kernel / kernel.sum(), first)
    for place in resolutions[1:]:
        walk = walked(doubled(walk.kernel, place.size), place)
    for number in range(count):
        for _ in range(FURTHER if number else 0):
            walk.step(pruning=False)
        found.append(centered(pruned(walk.kernel, FAINT)))
    kernels = torch.stack(found)
    gain = _gain(last.score, kernels[0], walk.windows, sigma_y=last.sigma_y, ratio=ratio, generator=generator)
    return SearchedKernels(kernels, gain)


class _Walk:
    """Steps of a kernel at one resolution."""

    def __init__(
        self,
        kernel: Tensor,
        place: Resolution,
        ratio: float,
        generator: np.random.Generator,
        highest: float,
        report: Callable[[Window], object],
    ) -> None:
        self.kernel, self.mean = kernel, torch.zeros_like(kernel)
        self.place, self.ratio, self.generator, self.report = place, ratio, generator, report
        self.windows, self.highest, self.number = list(place.windows), max(highest, 2 * place.lowest), 0

    def step(self, *, pruning: bool) -> None:
        """Move the kernel."""
        place, turn = self.place, self.number % len(self.windows)
        window, falling = self.windows[turn], (1 - HELD) * place.steps
        level = self.highest * (place.lowest / self.highest) ** min(1.0, self.number / falling)
        self.number += 1
        (noise,) = noise_for(window, 1, [level], self.generator)
        gradient, power, blurred = _gradient(place.score, self.kernel, window, noise, sigma_y=place.sigma_y, ratio=self.ratio)
        # What lies beyond the border is imputed, as by ExactScore: a mirror image would be blurred by the mirrored kernel.
        self.windows[turn] = dataclasses.replace(window, y=torch.where(window.recorded, window.y, blurred))
        self.mean = MEMORY * self.mean + (1 - MEMORY) * gradient
        sides = (int(window.y.shape[-2]), int(window.y.shape[-1]))
        unbiased = self.mean / (1 - MEMORY**self.number)
        moved = proximal_step(self.kernel, unbiased, power / STRIDE, sides)
        self.kernel, self.mean = _recentered(pruned(moved, FAINT) if pruning else moved, self.mean)
        self.report(window)


def evidence_of_kernel(
    score: ScoreModel, kernel: Tensor, window: Window, noise: Noise, *, sigma_y: float, ratio: float
) -> tuple[Tensor, Tensor]:
    r"""Return the integrand of the evidence times :math:`s^2`, differentiable in the kernel, and :math:`E[x | z_s]`.

    The same as :func:`~invdiff.blind.evidence.evidence_terms`, summed, for a circular blur with this kernel.
    """
    sides = (int(window.y.shape[-2]), int(window.y.shape[-1]))
    placed = on_torus(kernel, sides)
    half, gain = torch.fft.rfft2(placed), torch.fft.fft2(placed).abs()
    added = math.sqrt(noise.level**2 - sigma_y**2)
    z = window.y + added * noise.epsilon
    levels = pivot_levels(gain, gain.new_tensor(ratio), gain.new_tensor(noise.level))
    spectrum = half.conj() * torch.fft.rfft2(z) / noise.level**2 + torch.fft.rfft2(noise.state) / ratio
    mu = torch.fft.irfft2(levels[:, : half.shape[1]].square() * spectrum, s=sides)
    basis = HartleySVD((1, *sides), torch.ones(sides, dtype=torch.complex64, device=z.device))
    x_hat = score.denoise_pivot(mu, NoiseCovariance(basis, levels[None, None]))
    residual = window.y - torch.fft.irfft2(half * torch.fft.rfft2(x_hat), s=sides)
    term = residual.square() - 2 * sigma_y**2 / added * noise.epsilon * residual
    return (term * window.counted).sum(), x_hat


def _gradient(
    score: ScoreModel, kernel: Tensor, window: Window, noise: Noise, *, sigma_y: float, ratio: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return half the gradient with respect to the kernel, the power of the estimate with a floor, and the blurred estimate."""
    with torch.enable_grad():
        variable = kernel.detach().requires_grad_()
        term, x_hat = evidence_of_kernel(score, variable, window, noise, sigma_y=sigma_y, ratio=ratio)
        (gradient,) = torch.autograd.grad(term, variable)
    spectrum, sides = torch.fft.rfft2(x_hat.detach()), (int(x_hat.shape[-2]), int(x_hat.shape[-1]))
    blurred = torch.fft.irfft2(torch.fft.rfft2(on_torus(kernel, sides)) * spectrum, s=sides)
    power = spectrum.abs().square().sum((0, 1)) * window.counted.mean()
    power[0, 0] = power[0, 1]  # The mean of the picture says nothing about a kernel of sum 1.
    return gradient.detach() / 2, power + FLOOR * power.mean(), blurred


def _gain(
    score: ScoreModel,
    kernel: Tensor,
    windows: Sequence[Window],
    *,
    sigma_y: float,
    ratio: float,
    generator: np.random.Generator,
) -> float:
    """Return the mean negative log evidence per value minus that of no blur, between the levels of the search."""
    point = torch.zeros_like(kernel)
    point[kernel.shape[0] // 2, kernel.shape[1] // 2] = 1
    levels = [max(LOWEST, 1.5 * sigma_y) * factor for factor in (1.0, 1.6, 2.5)]
    difference = values = 0.0
    with torch.no_grad():
        for window in windows:
            for noise in noise_for(window, 1, levels, generator):
                of = [evidence_of_kernel(score, k, window, noise, sigma_y=sigma_y, ratio=ratio)[0] for k in (kernel, point)]
                difference += float(of[0] - of[1]) / noise.level**2
            values += window.values * len(levels)
    return difference / values


def _recentered(kernel: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return kernel and mean gradient shifted by whole pixels, if the centroid has left the middle pixel."""
    size = kernel.shape[0]
    places = torch.arange(size, dtype=kernel.dtype, device=kernel.device) - size // 2
    offsets = [float((kernel.sum(axis) * places).sum()) for axis in (1, 0)]
    shift = tuple(-round(offset) if abs(offset) > 0.6 else 0 for offset in offsets)
    return (kernel.roll(shift, (0, 1)), mean.roll(shift, (0, 1))) if any(shift) else (kernel, mean)
