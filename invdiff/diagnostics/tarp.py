r"""Tests of accuracy with random points (TARP): how far the truth lies from a point, against how far the samples lie.

The distance to a point that depends on the data and on chance, but on neither truth nor samples, ranks uniformly if the
samples are exact. Points that do not look at the data are blind to a sampler that ignores them; over all points that do, the
test is as strong as can be: only exact samples pass at every one.
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
CONSTANT = 1e-10  # variance over mean square below which a value counts as the same in all items


def reference_points(score: ScoreModel, op: Operator, start: Tensor, y: Tensor) -> Tensor:
    r"""Return a random point for each measurement, near what fits it, shaped like ``start``.

    Four rounds of one step of steepest descent towards the data and a denoising by the prior, which carries what was measured
    to the values that were not:

    .. math:: c \leftarrow E\Big[x_0 \Big| x_0 + \varsigma \varepsilon = c + \frac{\|g\|^2}{\|J g\|^2}\, g\Big], \qquad
        g = J^\top (y - A(c)), \quad J = \partial A / \partial x \,(c), \quad \varsigma = 1

    Given its measurement, the point must depend on neither truth nor samples: ``start`` is chance. The truth of the *case
    before* is that, and near what items look like; each rank is uniform whatever the point of the next case, so that the
    ranks of a row of cases are independent. Started from it but not moved, points are blind to samples that ignore the data.

    Args:
        score: The prior.
        op: The measurement; its noise does not matter.
        start: ``(n, *op.in_shape)``.
        y: ``(n, *op.out_shape)``.

    Cost: four denoiser evaluations.

    References:
        Lemos et al., Sampling-Based Accuracy Testing of Posterior Estimators for General Inference, 2023,
        https://arxiv.org/abs/2302.03025, algorithm 2 and theorem 3; the law of the points is ours, they leave it open
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

    Distances in units of it do not depend on the units of the values, and the truth itself has no part in them.
    """
    x, others = clean.double(), len(clean) - 1
    mean, square = (x.sum(0) - x) / others, ((x**2).sum(0) - x**2) / others
    variance = square - mean**2
    return torch.where(variance > CONSTANT * square, variance, 0.0).sqrt().to(clean)


def distance(x: Tensor, point: Tensor, scale: Tensor) -> Tensor:
    """Return the distance of every item from its point, ``(n,)``, in units of ``scale``; values of scale 0 are left out."""
    return norm(torch.where(scale > 0, (x - point) / scale, 0.0))
