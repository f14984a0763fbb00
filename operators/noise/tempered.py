r"""One measurement that stands in several places: each counts for a share of it."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.random import Streams

from ..core.noise import GaussianNoise, Noise

__all__ = ["share"]


def share(noise: Noise, count: int) -> Noise:
    r"""Return the law of each of ``count`` copies that together weigh as much as the one measurement they are copies of.

    .. math:: p(y | z) \to p(y | z)^{1 / n}, \qquad v \to n\, v

    A grey picture under a prior of colours is this: its values are those of three equal channels. Gaussian noise becomes
    Gaussian noise of :math:`\sqrt n` times the standard deviation.

    Args:
        noise: The law of the one measurement, of independent entries.
        count: :math:`n`, at least 1.
    """
    if count == 1:
        return noise
    if count < 1 or (noise.gaussian and not isinstance(noise, GaussianNoise)):
        raise ValueError(f"share: expected noise of independent entries and a count of at least 1, got {noise!r} and {count}.")
    if isinstance(noise, GaussianNoise):
        return GaussianNoise((noise.sigma if noise.deviations is None else noise.deviations) * count**0.5)
    return SharedNoise(noise, count)


class SharedNoise(Noise):
    r"""What :func:`share` returns for laws that are not Gaussian.

    The power of a density is none: its logarithm is right up to a constant, which no sampler looks at. Noise is drawn as
    :math:`\sqrt n` times that of the law itself.

    Args:
        noise: The law, of independent entries.
        count: :math:`n`.
    """

    def __init__(self, noise: Noise, count: int) -> None:
        self.noise, self.count = noise, count
        self.sigma, self.heavy_tailed = noise.sigma * count**0.5, noise.heavy_tailed

    def add(self, clean: Tensor, streams: Streams) -> Tensor:
        return torch.lerp(clean, self.noise.add(clean, streams), self.count**0.5)

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        return self.noise.log_likelihood(y, clean) / self.count

    def variance(self, y: Tensor, clean: Tensor) -> Tensor:
        return self.count * self.noise.variance(y, clean)

    def __repr__(self) -> str:
        return f"SharedNoise({self.noise!r}, {self.count})"
