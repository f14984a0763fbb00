r"""Tests of accuracy with random points (TARP): rank the distance of the truth from a reference point among those of samples.

The rank is uniform for exact samples if the point depends on the data and on random numbers, but on neither truth nor samples.
Points that do not depend on the data cannot detect a sampler that ignores the data. Over all points that do, the test is also
sufficient: only exact samples pass it at every point.
"""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.linalg import norm, over_items
from invdiff.operators import Operator
from invdiff.priors import ScoreModel

__all__ = ["distance", "reference_points", "scales"]

ROUNDS = 4
RATIO = 1.0  # noise-to-signal ratio at which points are denoised; images span [-1, 1]
CONSTANT = 1e-10  # variance over mean square below which a value counts as constant over the items


def reference_points(score: ScoreModel, op: Operator, start: Tensor, y: Tensor) -> Tensor:
    r"""Return a random reference point for each measurement, close to fitting it, shaped like ``start``.

    Four iterations of one step of steepest descent on the misfit and one denoising by the prior, which propagates information
    from the measured values to the others:

    .. math:: c \leftarrow E\Big[x_0 \Big| x_0 + \varsigma \varepsilon = c + \frac{\|g\|^2}{\|J g\|^2}\, g\Big], \qquad
        g = J^\top (y - A(c)), \quad J = \partial A / \partial x \,(c), \quad \varsigma = 1

    Given its measurement, the point must depend on neither truth nor samples: ``start`` must be random. The truth of the
    *previous case* is random in this sense, and resembles the items; each rank is uniform whatever the point of the next case,
    so the ranks of a sequence of cases are independent. Without the iterations, points could not detect samples that ignore the
    data.

    Args:
        score: The prior.
        op: The measurement operator; its noise is not used.
        start: Starting points, ``(n, *op.in_shape)``.
        y: Measurements, ``(n, *op.out_shape)``.

    Cost: four denoiser evaluations.

    References:
        Lemos et al., Sampling-Based Accuracy Testing of Posterior Estimators for General Inference, 2023,
        https://arxiv.org/abs/2302.03025, algorithm 2 and theorem 3; the paper leaves the distribution of the points open, this
        one is our choice
    """
    point, t = start, score.schedule.time(RATIO)
    for _ in range(ROUNDS):
        jacobian = op.jacobian(point)
        downhill = jacobian.adjoint(op.keep_measured(y - op(point)))
        length, image = norm(downhill), norm(jacobian(downhill))
        step = torch.where(image > 0, length / image, 0.0) ** 2
        alpha_t, _ = score.levels(t, point)
        point = score.denoise(alpha_t * (point + over_items(step, point) * downhill), t)
    return point


def scales(clean: Tensor) -> Tensor:
    """Return the standard deviation of every value over the *other* items, shaped like ``clean``; 0 where it is constant.

    Distances in these units do not depend on the units of the values. The truth does not enter its own scale.
    """
    x, others = clean.double(), len(clean) - 1
    mean, square = (x.sum(0) - x) / others, ((x**2).sum(0) - x**2) / others
    variance = square - mean**2
    return torch.where(variance > CONSTANT * square, variance, 0.0).sqrt().to(clean)


def distance(x: Tensor, point: Tensor, scale: Tensor) -> Tensor:
    """Return the distance of every item from its point, ``(n,)``, in units of ``scale``; values with scale 0 are left out."""
    return norm(torch.where(scale > 0, (x - point) / scale, 0.0))
