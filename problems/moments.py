r"""Moments of parallel projections, which tell the geometry of a sinogram.

For parallel beams the sum of a projection is the same at every angle, and its center of mass is

.. math:: c + \bar x \cos\theta + \bar y \sin\theta

with :math:`c` the detector on which the rotation axis projects. The sums tell which axis is that of the angles; the centers of
mass, and the second moments, tell the center of rotation and which angles are meant (Helgason-Ludwig consistency conditions).

References:
    Natterer, The Mathematics of Computerized Tomography, 2001, section II.4, https://doi.org/10.1137/1.9780898719284
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEWEST", "STEADY", "Moments", "spread_of"]

Array = NDArray[np.float64]

STEADY = 0.1  # relative spread of the sums of parallel projections
FEWEST = 8  # projections that tell the center of rotation
BETTER = 0.1  # squared misfit of the moments for other angles, relative to those assumed
NO_MISFIT = 1e-4  # squared misfit of the moments that means nothing, in detectors
MEDIAN = 0.455  # of a chi-square variable with one degree of freedom
UNFIT = 20.0  # squared misfit of the moments, relative to that of the noise, that no angles explain


@dataclass(frozen=True)
class Moments:
    """Center of mass of each projection, and its mean squared distance from the middle of the detectors, in detectors."""

    first: Array
    second: Array

    @classmethod
    def of(cls, values: Array) -> Self | None:
        """Return the moments of projections; ``None`` if they are too few or their sums differ, so that they tell nothing."""
        count, detectors = values.shape
        sums = values.sum(1)
        if count < FEWEST or spread_of(sums) > STEADY or not (sums > 0).all():
            return None
        places = np.arange(detectors) - (detectors - 1) / 2
        return cls(values @ places / sums, values @ places**2 / sums)

    def center(self, angles: Sequence[float]) -> tuple[float, float, float]:
        """Return the offset of the center of rotation from the middle, its standard error, and the misfit in detectors."""
        basis = self._basis(angles, 1)
        found, _, rank, _ = np.linalg.lstsq(basis, self.first, rcond=1e-6)
        if rank < 3:
            return 0.0, np.inf, np.inf
        misfit = float(np.linalg.norm(self.first - basis @ found)) / np.sqrt(len(self.first) - 3)
        return float(found[0]), misfit * float(np.sqrt(np.linalg.inv(basis.T @ basis)[0, 0])), misfit

    def misfit(self, angles: Sequence[float]) -> float:
        """Return the mean squared misfit of the moments, in detectors, if these are the angles."""
        total, scale = 0.0, 2 * np.sqrt(max(float(self.second.mean()), 1.0))
        for order, moment in ((1, self.first), (2, self.second / scale)):
            basis = self._basis(angles, order)
            total += float(np.mean((moment - basis @ np.linalg.lstsq(basis, moment, rcond=1e-6)[0]) ** 2))
        return total

    def fit(self, angles: Sequence[float], values: Array) -> bool:
        """Return whether the noise of the projections explains the misfit for these angles."""
        return self.misfit(angles) <= UNFIT * self.noise(values)

    def noise(self, values: Array) -> float:
        """Return the mean squared misfit that the noise of the projections would leave, and one of interpolation, in detectors.

        The variance of the noise is that of the second differences along the detectors, which an image hardly has.
        """
        detectors = values.shape[1]
        variance = float(np.median(np.diff(values, 2, axis=1) ** 2)) / (6 * MEDIAN)
        mass = float(np.mean(values.sum(1)))
        return float(2 * variance * detectors**3 / (12 * mass**2) + (detectors / 500) ** 2)

    def prefer(self, angles: Sequence[float], others: Sequence[float]) -> bool:
        """Return whether these angles fit far better than others."""
        return self.misfit(others) > NO_MISFIT and self.misfit(angles) < BETTER * self.misfit(others)

    @staticmethod
    def _basis(angles: Sequence[float], order: int) -> Array:
        turns = np.radians(np.asarray(angles))
        waves = [wave(k * turns) for k in range(1, order + 1) for wave in (np.cos, np.sin)]
        return np.stack([np.ones_like(turns), *waves], 1)


def spread_of(sums: Array) -> float:
    """Return the standard deviation of sums over their mean."""
    mean = float(sums.mean())
    return float(sums.std()) / mean if mean > 0 else np.inf
