r"""The center of rotation from projections that are half a turn apart, which are mirror images of each other.

.. math:: p_{\theta + 180°}(d) = p_\theta(2c - d)

with :math:`c` the detector on which the rotation axis projects. This holds for a part of an object too, that reaches beyond the
detectors, whose centers of mass tell nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["center_of_opposites"]

Array = NDArray[np.float64]

LEAST_OVERLAP = 0.5  # share of the detectors that see the object on both sides
ALIKE = 0.1  # mean squared difference of the two relative to their variance
CLEARLY = 2.0  # how much larger it is elsewhere
SURELY = 30.0  # decrease of chi-square from the middle, where the axis is unless the data say otherwise
WIDTH = 4  # shifts around the best one that are not elsewhere


def center_of_opposites(values: Array, angles: Sequence[float]) -> float | None:
    """Return the detector on which the rotation axis projects, counted from 0, or ``None`` if the data do not tell.

    The mean squared difference of opposite projections is evaluated where both are measured, for every shift by whole
    detectors, and its minimum is refined by a parabola: to a few tenths of a detector. For half a turn, whose first and last
    projection are not quite opposite, each is continued by a step along the line through its neighbor.

    Args:
        values: Line integrals, ``(angles, detectors)``.
        angles: In degrees.
    """
    detectors = values.shape[1]
    first, mirrored = _opposites(values, angles)
    if not len(first) or detectors < 8:
        return None
    reach = int((1 - LEAST_OVERLAP) * detectors)
    shifts = range(-reach, reach + 1)
    gaps = np.array([_gap(first, mirrored, shift) for shift in shifts])
    best = int(gaps.argmin())
    elsewhere = np.abs(np.arange(len(gaps)) - best) > WIDTH
    if not (0 < best < len(gaps) - 1 and gaps[best] < ALIKE and gaps[elsewhere].min() > CLEARLY * gaps[best]):
        return None
    before, here, after = gaps[best - 1 : best + 2]
    if best != reach and first.size * (gaps[reach] / here - 1) < SURELY:
        return None
    shift = shifts[best] + (before - after) / (2 * (before - 2 * here + after))
    return float((detectors - 1 + shift) / 2)


def _gap(first: Array, mirrored: Array, shift: int) -> float:
    """Return the mean squared difference of ``first[d]`` and ``mirrored[d - shift]``, relative to their variance."""
    width = first.shape[1] - abs(shift)
    a, b = first[:, max(shift, 0) :][:, :width], mirrored[:, max(-shift, 0) :][:, :width]
    spread = float(a.var() + b.var())
    return float(np.mean((a - b) ** 2)) / spread if spread > 0 else np.inf


def _opposites(values: Array, angles: Sequence[float]) -> tuple[Array, Array]:
    """Return projections, and mirror images of those half a turn apart, both ``(pairs, detectors)``."""
    turned = np.asarray(angles) % 360
    none = values[:0], values[:0]
    if len(turned) < 3:
        return none
    order = np.argsort(turned)
    steps = np.diff(turned[order])
    step = float(np.median(steps))
    if step <= 0:
        return none
    apart = np.abs((turned[:, None] - turned[None]) % 360 - 180)
    pairs = [(k, int(j)) for j, k in enumerate(apart.argmin(0)) if apart[k, j] <= 0.1 * step and j < k]
    if pairs:
        one, other = (values[[pair[i] for pair in pairs]] for i in (0, 1))
        return one, other[:, ::-1]
    start, second, before, end = order[0], order[1], order[-2], order[-1]
    if not (np.allclose(steps[[0, -1]], step, rtol=0.1) and abs(turned[end] + step - turned[start] - 180) < 0.1 * step):
        return none
    onward = np.stack([2 * values[start] - values[second], 2 * values[end] - values[before]])  # a step further
    return onward, values[[end, start]][:, ::-1]
