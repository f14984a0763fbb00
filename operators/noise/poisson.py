r"""Photon counting noise, whose variance grows with the intensity."""

from __future__ import annotations

import math
from abc import ABC

import torch
from torch import Tensor

from invdiff.random import Streams

from ..core.noise import Noise

__all__ = ["PhotonNoise", "PoissonGaussianNoise", "PoissonNoise"]

DARK_COUNT = 1e-6  # Smallest expected number of photons, so that a count without light has a finite log-likelihood.
DARKEST = 0.5  # Smallest expected number of photons for the variance: at 0 an entry would have infinite weight.


class PhotonNoise(Noise, ABC):
    r"""Photon counts :math:`y = o + g\, k + \sigma n`, with or without Gaussian readout noise.

    Args:
        gain: :math:`g > 0`, the increase of ``y`` per photon.
        offset: :math:`o`, the value of ``y`` without light.
        readout: :math:`\sigma \ge 0`, standard deviation of the readout noise, in the units of ``y``.
    """

    def __init__(self, gain: float, offset: float, readout: float) -> None:
        if not (math.isfinite(gain) and gain > 0 and math.isfinite(offset) and math.isfinite(readout) and readout >= 0):
            raise ValueError(
                f"{type(self).__name__}: expected gain > 0, sigma >= 0 and a finite offset, got {gain}, {readout}, {offset}."
            )
        self.gain, self.offset, self.readout = float(gain), float(offset), float(readout)
        self.sigma = math.hypot(gain, readout)  # Standard deviation where one photon is expected.

    def add(self, clean: Tensor, streams: Streams) -> Tensor:
        rates = ((clean - self.offset) / self.gain).clamp(min=0)
        counts = torch.stack([torch.poisson(rate, generator=g) for rate, g in zip(rates, streams.generators, strict=True)])
        y = self.offset + self.gain * counts
        return y + self.readout * streams.normal(y.shape[1:], dtype=y.dtype) if self.readout else y

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        background = (self.readout / self.gain) ** 2
        counts = ((y - self.offset) / self.gain + background).clamp(min=0)
        rates = (((clean - self.offset) / self.gain).clamp(min=0) + background).clamp(min=DARK_COUNT)
        return torch.xlogy(counts, rates) - rates - torch.lgamma(counts + 1)

    def variance(self, y: Tensor, clean: Tensor) -> Tensor:
        expected = torch.clamp((clean - self.offset) / self.gain, min=DARKEST if self.readout == 0 else 0)
        return self.gain**2 * expected + self.readout**2

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.gain:g}, offset={self.offset:g}, sigma={self.readout:g})"


class PoissonGaussianNoise(PhotonNoise):
    r"""Photon counting with Gaussian readout noise.

    .. math:: y = o + g\, k + \sigma n, \qquad k \sim \mathrm{Poisson}\big((z - o) / g\big), \quad n \sim \mathcal{N}(0, 1)

    The likelihood is Snyder's shifted Poisson approximation, which has the exact mean and variance: the readout variance in
    photons, :math:`\sigma^2 / g^2`, is treated as an additional background of that many photons. It is exact for
    :math:`\sigma = 0`. For :math:`z < o` the expected number of photons is 0.

    Args:
        gain: :math:`g > 0`, the increase of ``y`` per photon, in the units of ``y``. Images span [-1, 1], so 100 photons at
            white are ``gain=2/100``.
        offset: :math:`o`, the value of ``y`` where there is no light: -1 for images.
        sigma: :math:`\sigma \ge 0`, standard deviation of the readout noise, in the units of ``y``.

    Raises:
        ValueError: If ``gain`` is not positive, ``sigma`` is negative, or one of the three is not finite.

    References:
        Snyder et al., Compensation for readout noise in CCD images, 1995, https://doi.org/10.1364/JOSAA.12.000272
    """

    def __init__(self, gain: float, *, offset: float, sigma: float) -> None:
        super().__init__(gain, offset, sigma)


class PoissonNoise(PhotonNoise):
    r"""Photon counting: :math:`y = o + g\, k`, :math:`k \sim \mathrm{Poisson}((z - o) / g)`.

    Args:
        gain: :math:`g > 0`, the increase of ``y`` per photon, in the units of ``y``. Images span [-1, 1], so 100 photons at
            white are ``gain=2/100``.
        offset: :math:`o`, the value of ``y`` where there is no light: -1 for images.

    Raises:
        ValueError: If ``gain`` is not positive, or one of the two is not finite.
    """

    def __init__(self, gain: float, *, offset: float) -> None:
        super().__init__(gain, offset, 0.0)
