"""Central credible intervals of every entry, from few or many samples, with or without weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy
import torch
from torch import Tensor

if TYPE_CHECKING:
    from invdiff.posterior.result import Posterior

__all__ = ["central_interval", "student_width"]

ROUNDING = 1e-9  # of sums of weights
LEAST_SIZE = 1.01  # effective samples: with a single one, Student's distribution has no degree of freedom left


def student_width(level: float, size: float | np.ndarray) -> np.ndarray:
    r"""Return the half width of the interval for a new draw of a Gaussian, in standard deviations of ``size`` samples.

    It is :math:`\sqrt{1 + 1/n}\; t_{n-1}\big(\tfrac{1 + \text{level}}{2}\big)`, since mean and standard deviation are estimated
    from the samples too.
    """
    n = np.asarray(size, dtype=np.float64)
    return np.asarray(scipy.special.stdtrit(n - 1, (1 + level) / 2) * np.sqrt(1 + 1 / n))


def central_interval(post: Posterior, level: float) -> tuple[Tensor, Tensor]:
    """Return the ends of :meth:`Posterior.interval <invdiff.posterior.Posterior.interval>`, which documents them."""
    if not 0 < level < 1:
        raise ValueError(f"interval: the level must lie in (0, 1), such as 0.9, got {level}.")
    count = len(post.samples)
    if count < 2:
        raise ValueError("interval: a single sample has no spread. Draw two samples or more: run(y, num_samples=8).")
    tail, size = (1 - level) / 2, post.ess.double().clamp(LEAST_SIZE, count)
    many = tail * (size + 1) >= 1 - ROUNDING
    parts = []
    if many.any():
        parts.append(_between_samples(post, tail, size))
    if not many.all():
        width = torch.from_numpy(student_width(level, size.cpu().numpy())).to(post.samples)
        half = torch.where(post.std > 0, _per_item(width, post.mean) * post.std, 0)
        parts.append((post.mean - half, post.mean + half))
    if len(parts) == 1:
        return parts[0]
    chosen = _per_item(many, post.mean)
    low, high = (torch.where(chosen, order, student) for order, student in zip(*parts, strict=True))
    return low, high


def _between_samples(post: Posterior, tail: float, size: Tensor) -> tuple[Tensor, Tensor]:
    """Return ends between order statistics, of which a new draw lies beyond each with probability ``tail`` on average."""
    count, weights = len(post.samples), post.weights.double()
    if bool((weights == weights[:1]).all()):
        # Sample i of n has the rank i / (n + 1) among the samples and the new draw; stretched where the samples count for less.
        position = (count * ((size + 1) * tail - 0.5) / size - 0.5).clamp(0, (count - 1) / 2)
        ordered, below = post.samples.sort(0).values, position.long()
        above, share = (below + 1).clamp(max=count - 1), _per_item((position - below).to(post.samples), post.mean)
        return (
            torch.lerp(_pick(ordered, below), _pick(ordered, above), share),
            torch.lerp(_pick(ordered, count - 1 - below), _pick(ordered, count - 1 - above), share),
        )
    # The new draw counts as one more effective sample, which may lie anywhere: the intervals err on the wide side.
    ordered, order = post.samples.sort(0)
    sorted_weights = _per_item(weights, post.samples).expand_as(post.samples).gather(0, order)
    bound = _per_item((tail * (size + 1) - 1) / size + ROUNDING, post.mean)
    below, above = sorted_weights.cumsum(0) - sorted_weights, sorted_weights.flip(0).cumsum(0).flip(0) - sorted_weights
    lowest, highest = ((beyond <= bound).sum(0, keepdim=True).clamp(min=1) for beyond in (below, above))
    return ordered.gather(0, lowest - 1).squeeze(0), ordered.gather(0, count - highest).squeeze(0)


def _pick(ordered: Tensor, place: Tensor) -> Tensor:
    """Return entry ``place[b]`` of item ``b``, ``(B, *event)``."""
    return ordered[place, torch.arange(len(place), device=place.device)]


def _per_item(values: Tensor, like: Tensor) -> Tensor:
    """Return ``values`` with axes appended, to be combined with ``like``."""
    return values.reshape(*values.shape, *(1,) * (like.ndim - values.ndim))
