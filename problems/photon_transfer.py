r"""The noise of a sensor, estimated from one mosaic: variance against level over its flat parts."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

__all__ = ["photon_transfer"]

Array = NDArray[np.float64]

BLOCK = 8  # pixels of one color along a side
LEVELS = 24  # intervals of the level, with equally many blocks
FLAT = 0.1  # share of the blocks in an interval that are taken: those that vary least on a coarse scale
FEWEST = 128  # blocks
LOWEST, HIGHEST = 0.0, 0.95  # mean level of a block: beyond, pixels are cut off
MEDIAN = 0.6745  # of the absolute value of a standard normal number
FEWEST_IN = 40  # blocks in an interval
ABOVE = 0.1  # weight of a variance above the line, and 0.9 of one below: texture adds to variances
ROUNDS = 20  # of reweighting


def photon_transfer(light: Array, *, step: float) -> tuple[float, float]:
    r"""Return :math:`S` and :math:`O` of the noise variance :math:`S v + O` of a mosaic at the level :math:`v`.

    Each of the four pixels of a tile gives a plane. In blocks of 8 x 8 pixels of a plane, the differences
    :math:`(a - b - c + d) / 2` of 2 x 2 pixels, free of the mean and of slopes, have the variance of the noise. The blocks are
    divided by their mean into 24 levels; in each, the tenth that varies least after averaging over 2 x 2 pixels, which is
    independent of those differences, gives :math:`\hat\sigma = \operatorname{median} |a - b - c + d| / (2 \cdot 0.6745)`. A
    line is fitted to :math:`\hat\sigma^2` against the level by non-negative least squares relative to the line itself, with the
    weight 0.1 for values above and 0.9 for those below it (an expectile), since texture that is left makes them larger.

    Args:
        light: Light on the 0..1 scale, ``(H, W)``, from a filter with tiles of 2 x 2 pixels.
        step: Smallest difference of two values: the noise is that of its rounding at least.

    Raises:
        ValueError: If there are too few blocks that are neither black nor saturated: the reason alone.

    References:
        Janesick, Photon Transfer, 2007, https://doi.org/10.1117/3.725073; the difference filter is that of Immerkaer, Fast
        noise variance estimation, 1996, https://doi.org/10.1006/cviu.1996.0060, in its smallest form.
    """
    height, width = (side // (2 * BLOCK) * BLOCK for side in light.shape)
    planes = np.stack([light[top : 2 * height : 2, left : 2 * width : 2] for top in (0, 1) for left in (0, 1)])
    half = BLOCK // 2
    quads = planes.reshape(4, height // BLOCK, half, 2, width // BLOCK, half, 2).transpose(0, 1, 4, 2, 5, 3, 6)
    quads = quads.reshape(-1, half * half, 2, 2)
    means = quads.mean((2, 3))
    levels, activity = means.mean(1), means.std(1)
    details = np.abs(quads[..., 0, 0] - quads[..., 0, 1] - quads[..., 1, 0] + quads[..., 1, 1]) / (2 * MEDIAN)
    inside = (levels > LOWEST) & (quads.max((1, 2, 3)) < HIGHEST) & (details.max(1) > 0)
    if inside.sum() < FEWEST:
        raise ValueError(f"{int(inside.sum())} blocks of the mosaic are neither black nor saturated, expected {FEWEST}")
    order = np.flatnonzero(inside)[np.argsort(levels[inside], kind="stable")]
    found = []
    for part in np.array_split(order, min(LEVELS, len(order) // FEWEST_IN)):
        flat = part[np.argsort(activity[part], kind="stable")[: max(1, round(FLAT * len(part)))]]
        found.append((float(levels[flat].mean()), float(np.median(details[flat])) ** 2))
    level, variance = np.array(found).T
    fitted = np.maximum(variance, step**2 / 12)
    slope = offset = 0.0
    for _ in range(ROUNDS):
        weight = np.sqrt(np.where(variance > fitted, ABOVE, 1 - ABOVE)) / fitted
        design = np.stack([level, np.ones_like(level)], 1) * weight[:, None]
        slope, offset = (float(value) for value in scipy.optimize.nnls(design, variance * weight)[0])
        fitted = np.maximum(slope * level + offset, step**2 / 12)
    return slope, max(offset, step**2 / 12)
