r"""Conformal widths: half-widths of intervals, in standard deviations of the samples, learned from images with known truth.

For an image :math:`x`, the mean :math:`m` and the standard deviation :math:`s` of its samples, every value has a deviation
:math:`r = |x - m| / s`, and the interval :math:`m \pm w\, s` covers the values with :math:`r \le w`. Values of one image are
correlated, so the guarantees hold over exchangeable *images*: independent images of the same kind, measured and sampled in the
same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invdiff.posterior.interval import student_width

__all__ = ["ONE_STD", "deviations", "exact_width", "images_needed", "marginal_width", "width_per_image"]

ONE_STD = 0.6827  # probability of a Gaussian within one standard deviation of the mean
ROUNDING = 1e-9  # tolerance for sums of shares that decide between one width and the next


def deviations(truth: Tensor, samples: Tensor, *, known: Tensor | None = None) -> list[Tensor]:
    r"""Return :math:`|x - m| / s` of the values of every item, a float64 vector for each.

    :math:`s` is computed with equal weights and Bessel's correction. Where it is 0, the deviation is 0 if the truth equals the
    mean and infinite otherwise.

    Args:
        truth: True values, ``(n, *event)``.
        samples: Samples, ``(M, n, *event)``, :math:`M \ge 2`.
        known: Boolean ``(n, *event)``, true for exactly known values, which are left out. Default: none.
    """
    if len(samples) < 2 or samples.shape[1:] != truth.shape:
        raise ValueError(
            "deviations: expected truth (n, *event) and two samples or more (M, n, *event), "
            f"got {tuple(truth.shape)} and {tuple(samples.shape)}."
        )
    if not (truth.isfinite().all() and samples.isfinite().all()):
        raise ValueError("deviations: truth and samples must be finite.")
    found = []
    for b, x in enumerate(truth.double()):
        drawn = samples[:, b].double()
        error, std = (x - drawn.mean(0)).abs(), drawn.std(0)
        ratio = torch.where(error > 0, error / std, 0.0)
        found.append(ratio.flatten() if known is None else ratio[~known[b]])
    return found


def images_needed(level: float) -> int:
    r"""Return the smallest number of images for a width at ``level``: :math:`\lceil 1 / (1 - \text{level}) - 1 \rceil`."""
    if not 0 < level < 1:
        raise ValueError(f"conformal width: level must lie in (0, 1), got {level}.")
    return math.ceil(1 / (1 - level) - 1 - ROUNDING)


def marginal_width(scores: Sequence[Tensor], *, level: float) -> float:
    r"""Return the smallest width whose intervals cover a share ``level`` of the values of a new image in expectation.

    With :math:`L_i(w)` the share of the values of image :math:`i` with a deviation above :math:`w`, conformal risk control
    takes

    .. math:: \hat w = \inf \Big\{w : \frac{1}{n + 1} \Big(\sum_{i=1}^n L_i(w) + 1\Big) \le 1 - \text{level}\Big\},

    and :math:`E[L_{n+1}(\hat w)] \le 1 - \text{level}` for every finite :math:`n` and every distribution; the expectation is
    over the :math:`n` images and a new one exchangeable with them.

    Args:
        scores: Deviations, one vector for each of :math:`n` images. The vector of an image that was cut into crops holds the
            deviations of all crops.
        level: Share of the values to cover, in (0, 1).

    Returns:
        The width. Infinite if so many values have an infinite deviation that no multiple of the standard deviation suffices.

    Raises:
        ValueError: If there are fewer images than :func:`images_needed`.

    References:
        Angelopoulos et al., Conformal Risk Control, 2022, https://arxiv.org/abs/2208.02814, eq. 4 with loss at most 1
    """
    _check(scores, level, images_needed(level))
    allowed = ((len(scores) + 1) * (1 - level) - 1) / len(scores)  # largest mean share of values beyond the width
    values, order = torch.cat(list(scores)).sort()
    shares = torch.cat([torch.full_like(part, 1 / (len(part) * len(scores))) for part in scores])[order]
    beyond = shares.flip(0).cumsum(0).flip(0) - shares  # share after each value; too large only before the last of equal values
    return float(values[int((beyond > allowed + ROUNDING).sum())])


def width_per_image(scores: Sequence[Tensor], *, level: float, confidence: float) -> float:
    r"""Return the width whose intervals cover a share ``level`` of the values of a new image with probability ``confidence``.

    Split conformal prediction with one score per image: the smallest :math:`w_i` that covers a share ``level`` of its values.
    The width is the :math:`\lceil (n + 1)\, \text{confidence} \rceil`-th smallest of them, and
    :math:`P(w_{n+1} \le \hat w) \ge \text{confidence}` for every finite :math:`n` and every distribution.

    Args:
        scores: Deviations, one vector for each of :math:`n` images.
        level: Share of the values to cover, in (0, 1).
        confidence: Probability that a new image is covered, in (0, 1).

    Raises:
        ValueError: If there are fewer images than ``images_needed(confidence)``.

    References:
        Vovk et al., Algorithmic Learning in a Random World, 2005; Lei et al., Distribution-Free Predictive Inference for
        Regression, 2018, https://arxiv.org/abs/1604.04173, section 2.2
    """
    _check(scores, level, images_needed(confidence))
    each = [float(part.sort().values[math.ceil(level * len(part) - ROUNDING) - 1]) for part in scores]
    return sorted(each)[math.ceil((len(each) + 1) * confidence - ROUNDING) - 1]


def exact_width(level: float, num_samples: int) -> float:
    r"""Return the width that ``num_samples`` exact samples of a Gaussian posterior need, as a reference.

    Mean and standard deviation are estimated from :math:`M` samples, so it is the Student t quantile
    :math:`\sqrt{1 + 1 / M}\; t_{M-1}\big(\tfrac{1 + \text{level}}{2}\big)`: 2.63 at 90 % for 4 samples, 1.64 for infinitely
    many.
    """
    if not 0 < level < 1 or num_samples < 2:
        raise ValueError(f"exact_width: expected a level in (0, 1) and two samples or more, got {level} and {num_samples}.")
    return float(student_width(level, num_samples))


def _check(scores: Sequence[Tensor], level: float, needed: int) -> None:
    if not 0 < level < 1:
        raise ValueError(f"conformal width: level must lie in (0, 1), got {level}.")
    if len(scores) < needed:
        raise ValueError(f"conformal width: {len(scores)} images are too few for this level, at least {needed} are needed.")
    if not all(part.ndim == 1 and len(part) for part in scores):
        raise ValueError("conformal width: expected a vector of deviations for each image, none of them empty.")
