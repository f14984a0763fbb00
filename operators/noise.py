"""Noise models: what a measurement adds to ``op(x)``. The only place where measurement noise is drawn."""

from __future__ import annotations

import math

from torch import Tensor

from invdiff.random import Streams

__all__ = ["GaussianNoise"]


class GaussianNoise:
    r"""White Gaussian noise, :math:`y = A(x) + n` with :math:`n \sim \mathcal{N}(0, \sigma_y^2 I)`.

    Args:
        sigma: Standard deviation :math:`\sigma_y \ge 0` in the units of ``y``. Zero: exact data.
    """

    def __init__(self, sigma: float) -> None:
        if not (math.isfinite(sigma) and sigma >= 0):
            raise ValueError(f"GaussianNoise: sigma must be a finite number that is not negative, got {sigma}.")
        self.sigma = float(sigma)

    def add(self, clean: Tensor, streams: Streams) -> Tensor:
        """Return ``clean`` with fresh noise, each item's from its own stream."""
        return clean + self.sigma * streams.normal(clean.shape[1:], dtype=clean.dtype)

    def __repr__(self) -> str:
        return f"GaussianNoise({self.sigma:g})"
