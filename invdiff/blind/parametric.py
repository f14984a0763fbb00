r"""The parameters of a kernel: where the evidence is largest, and how far around it they may be.

The interval around the maximum is that of a composite likelihood. The entries of a picture are not independent given the
kernel, and the denoiser is not exact, so the curvature :math:`H` of the evidence overstates what is known. The variance of the
estimate is that of the scatter :math:`J` of the gradients of the blocks of the picture (Godambe's sandwich), and of an error
that all blocks share, because the denoiser makes it everywhere:

.. math:: \operatorname{var} \hat\theta \approx H^{-1} J H^{-1} + B

:math:`B` was measured on photographs (:meth:`ParametricFamily.bias <invdiff.blind.ParametricFamily.bias>`) and is by far the
larger part: the evidence alone is right to a percent about the wrong number. Most such errors are small and a few large,
because some photographs are soft before any blur. So draws follow a t distribution with this scale.

References:
    Godambe, 1960, https://doi.org/10.1214/aoms/1177705693; Varin, Reid & Firth, An overview of composite likelihood methods,
    2011, https://www.jstor.org/stable/24309261
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from invdiff.blind.families import ParametricFamily

__all__ = ["LEVELS", "ROUGH", "Estimate", "block_sums", "search"]

FREEDOM = 3  # Degrees of freedom of the errors
BLOCK, BLOCKS = 16, 6  # Side of the blocks in entries of y, and how many lie along a side at the least
LEVELS = 6  # Levels of the noise
ROUGH = 0  # Stands for the levels of the first grid
# Points of the first grid around which a maximum is looked for, of families of two parameters; and maxima of the first grid
# that are followed to the end, of families of one.
CANDIDATES, MAXIMA = 4, 2

# (parameters, which random numbers, how many of the highest levels) -> the negative log evidence of every place, (h, w). 0
# levels stand for those of the first grid, which are higher.
Evidence = Callable[[tuple[float, ...], int, int], Tensor]


@dataclass(frozen=True, eq=False)
class Estimate:
    r"""Estimated parameters.

    Attributes:
        parameters: The maximum of the evidence, one number for each name of the family.
        covariance: Scale matrix of the errors, ``(P, P)``; of the errors of the logarithms where :attr:`logarithmic` says so.
        logarithmic: Whether the errors of each parameter are those of its logarithm.
        evidence: Negative log evidence of every place at the maximum, at the levels of the first grid, ``(h, w)``.
        at_bound: Name of the parameter that is at the end of its range, or an empty string.
        determined: Whether the evidence has a maximum there: the picture tells the parameters.
    """

    parameters: tuple[float, ...]
    covariance: np.ndarray
    logarithmic: tuple[bool, ...]
    evidence: Tensor
    at_bound: str
    determined: bool

    def draws(self, count: int, family: ParametricFamily, generator: np.random.Generator) -> list[tuple[float, ...]]:
        """Return ``count`` draws of the parameters within the bounds of the family, t-distributed around the maximum."""
        found: list[tuple[float, ...]] = []
        for _ in range(1000 * count):
            step = generator.multivariate_normal(np.zeros(len(self.parameters)), self.covariance)
            step *= math.sqrt(FREEDOM / generator.chisquare(FREEDOM))
            drawn = family.wrapped(moved(self.parameters, step, self.logarithmic))
            if drawn is not None:
                found.append(drawn)
            if len(found) == count:
                return found
        return found + [self.parameters] * (count - len(found))


def search(family: ParametricFamily, evidence: Evidence) -> Estimate:
    """Return the maximum of the evidence over a family and its uncertainty: a grid, finer grids around its best point, a fit.

    The grid uses high levels alone and each finer one another low level: at low levels kernels that are nearly right are less
    probable than no blur at all, and so are lines that are exactly right, sometimes.
    """
    totals: dict[tuple[tuple[float, ...], int], float] = {}

    def total(theta: tuple[float, ...], levels: int) -> float:
        key = tuple(round(v, 9) for v in theta), levels
        if key not in totals:
            totals[key] = float(evidence(theta, 0, levels).double().sum())
        return totals[key]

    logarithmic = tuple(name != "angle" for name in family.names)

    def climb(best: tuple[float, ...], steps: np.ndarray, levels: int) -> tuple[float, ...]:
        """Return the best point that is reached by moves to better neighbors."""
        for _ in range(8):
            around = [family.wrapped(moved(best, steps * np.array(move), logarithmic)) for move in _moves(len(steps))]
            better = min([best, *(theta for theta in around if theta is not None)], key=lambda theta: total(theta, levels))
            if better == best:
                break
            best = better
        return best

    def spacing(theta: tuple[float, ...]) -> np.ndarray:
        return np.array(relative(family.spacing(theta), theta, logarithmic))

    def refined(best: tuple[float, ...]) -> tuple[tuple[float, ...], np.ndarray]:
        """Return the maximum near a maximum of the high levels, and the last spacing."""
        steps = spacing(best)
        for levels in range(3, LEVELS + 1):
            best = climb(best, steps, levels)
            steps = steps / 2 if levels < LEVELS - 1 else steps
        return best, steps

    grid = family.start()
    if len(family.names) == 1:  # The evidence may have two maxima, and all levels together tell the better one.
        heights = [total(theta, ROUGH) for theta in grid]
        lowest = min(range(len(grid)), key=heights.__getitem__)
        # Only more blur is considered: low levels may favor no blur over the kernel that is right.
        others = [k for k in range(lowest + 1, len(grid) - 1) if heights[k] == min(heights[k - 1 : k + 2])]
        first = [grid[k] for k in (lowest, *sorted(others, key=heights.__getitem__))[:MAXIMA]]
    else:
        first = sorted(grid, key=lambda theta: total(theta, ROUGH))[:CANDIDATES]
    tops = {climb(climb(theta, spacing(theta), ROUGH), spacing(theta) / 2, ROUGH): None for theta in first}
    kept = list(tops) if len(family.names) == 1 else [min(tops, key=lambda theta: total(theta, ROUGH))]
    maximum, steps = min(map(refined, kept), key=lambda found: total(found[0], LEVELS))
    return _fit(family, evidence, maximum, steps, logarithmic)


def _fit(
    family: ParametricFamily, evidence: Evidence, center: tuple[float, ...], steps: np.ndarray, logarithmic: tuple[bool, ...]
) -> Estimate:
    """Fit a quadratic function to the evidence around ``center``, place by place."""
    count = len(steps)
    moves = [(-2,), (-1,), (0,), (1,), (2,)] if count == 1 else list(itertools.product((-1, 0, 1), repeat=count))
    points = [(move, family.wrapped(moved(center, steps * np.array(move), logarithmic))) for move in moves]
    at_bound = ""
    if any(theta is None for _, theta in points):
        ranges = zip(family.names, center, family.bounds, steps, strict=True)
        scaled = [(name, value, math.exp(2 * h), bounds) for name, value, bounds, h in ranges if name != "angle"]
        near = [name for name, value, by, (low, high) in scaled if value / by < low or value * by > high]
        at_bound = near[0] if near else family.names[0]
    kept = [(move, theta) for move, theta in points if theta is not None]
    maps = [torch.stack([evidence(theta, stream, LEVELS) for stream in (0, 1)]).mean(0) for _, theta in kept]
    blocks = block_sums(maps)  # (points, blocks)
    design = np.stack([_quadratic(np.array(move, float)) for move, _ in kept])
    coefficients, *_ = np.linalg.lstsq(design, blocks, rcond=None)
    gradient, hessian = coefficients[1 : 1 + count], _symmetric(coefficients[1 + count :].sum(1), count)
    values, vectors = np.linalg.eigh(hessian)
    determined = bool(values[0] > 0) and len(kept) == len(points)
    # A direction in which the evidence is flat is known to the width of the grid at best.
    inverse = vectors @ np.diag(1 / np.maximum(values, 1.0)) @ vectors.T
    shift = np.clip(-inverse @ gradient.sum(1), -2, 2) if determined else np.zeros(count)
    scatter = gradient - gradient.mean(1, keepdims=True)
    variation = scatter @ scatter.T * scatter.shape[1] / max(scatter.shape[1] - 1, 1)
    covariance = inverse @ variation @ inverse
    if not determined:
        covariance = covariance + np.eye(count)
    scale = np.diag(steps)
    theta = family.wrapped(moved(center, steps * shift, logarithmic)) or center
    shared = np.diag(np.square(relative(family.bias(theta), theta, logarithmic)))
    return Estimate(theta, scale @ covariance @ scale + shared, logarithmic, evidence(center, 0, ROUGH), at_bound, determined)


def moved(theta: Sequence[float], step: np.ndarray, logarithmic: Sequence[bool]) -> tuple[float, ...]:
    """Return parameters moved by ``step``, in the logarithm where ``logarithmic`` says so."""
    pairs = zip(theta, step.tolist(), logarithmic, strict=True)
    return tuple(value * math.exp(by) if log else value + by for value, by, log in pairs)


def relative(steps: Sequence[float], theta: Sequence[float], logarithmic: Sequence[bool]) -> list[float]:
    """Return steps of the logarithm for those parameters."""
    return [math.log1p(step / value) if log else step for step, value, log in zip(steps, theta, logarithmic, strict=True)]


def _moves(count: int) -> list[tuple[int, ...]]:
    return [move for move in itertools.product((-1, 0, 1), repeat=count) if any(move)]


def _quadratic(move: np.ndarray) -> np.ndarray:
    pairs = itertools.combinations_with_replacement(range(len(move)), 2)
    return np.array([1.0, *move, *(move[i] * move[j] * (0.5 if i == j else 1.0) for i, j in pairs)])


def _symmetric(entries: np.ndarray, count: int) -> np.ndarray:
    matrix = np.zeros((count, count))
    for value, (i, j) in zip(entries, itertools.combinations_with_replacement(range(count), 2), strict=True):
        matrix[i, j] = matrix[j, i] = value
    return matrix


def block_sums(maps: Sequence[Tensor]) -> np.ndarray:
    """Return the sums of maps ``(h, w)`` over blocks, ``(maps, blocks)``, without blocks in which all maps are 0."""
    stacked = torch.stack(list(maps)).double().cpu()
    side = max(1, min(BLOCK, stacked.shape[2] // BLOCKS))
    pad = [-n % side for n in stacked.shape[1:]]
    padded = torch.nn.functional.pad(stacked, (0, pad[1], 0, pad[0]))
    rows, columns = (n // side for n in padded.shape[1:])
    sums = padded.reshape(-1, rows, side, columns, side).sum((2, 4)).flatten(1)
    used = (sums != 0).any(0)
    kept: np.ndarray = (sums[:, used] if used.any() else sums).numpy()
    return kept
