r"""Tempered noise, for a measurement that is present in several copies."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.random import Streams

from ..core.noise import GaussianNoise, Noise

__all__ = ["temper"]


def temper(noise: Noise, count: int) -> Noise:
    r"""Temper the likelihood, so that ``count`` copies of a measurement carry the information of one.

    .. math:: p(y | z) \to p(y | z)^{1 / n}, \qquad v \to n\, v

    A gray picture under a prior of colors is this: its values are those of three equal channels. Gaussian noise becomes
    Gaussian noise of :math:`\sqrt n` times the standard deviation.

    Args:
        noise: The noise of the one measurement, independent from entry to entry.
        count: :math:`n`, at least 1.
    """
    if count == 1:
        return noise
    if count < 1 or (noise.gaussian and not isinstance(noise, GaussianNoise)):
        raise ValueError(f"temper: expected noise of independent entries and a count of at least 1, got {noise!r} and {count}.")
    if isinstance(noise, GaussianNoise):
        return GaussianNoise((noise.sigma if noise.deviations is None else noise.deviations) * count**0.5)
    return TemperedNoise(noise, count)


class TemperedNoise(Noise):
    r"""Noise with the likelihood :math:`p(y | z)^{1 / n}`, for noise that is not Gaussian. See :func:`temper`.

    The power of a density is not normalized: its logarithm is right up to a constant, which no sampler looks at. Noise is
    drawn as :math:`\sqrt n` times the original noise.

    Args:
        noise: The original noise, independent from entry to entry.
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
        return f"TemperedNoise({self.noise!r}, {self.count})"
