r"""Tempered noise, for a measurement that is repeated in several copies."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.random import Streams

from ..core.noise import GaussianNoise, Noise

__all__ = ["temper"]


def temper(noise: Noise, count: int) -> Noise:
    r"""Temper the likelihood, so that ``count`` copies of a measurement carry the information of one.

    .. math:: p(y | z) \to p(y | z)^{1 / n}, \qquad v \to n\, v

    This is needed for a gray picture with a color prior, where the three channels are copies of the gray values. Gaussian
    noise becomes Gaussian noise with :math:`\sqrt n` times the standard deviation.

    Args:
        noise: The noise of the original measurement, independent between entries.
        count: :math:`n`, at least 1.

    Raises:
        ValueError: If ``count`` is below 1, or the noise is Gaussian and correlated.
    """
    if count == 1:
        return noise
    if count < 1 or (noise.gaussian and not isinstance(noise, GaussianNoise)):
        raise ValueError(f"temper: expected independent noise and a count of at least 1, got {noise!r} and {count}.")
    if isinstance(noise, GaussianNoise):
        return GaussianNoise((noise.sigma if noise.deviations is None else noise.deviations) * count**0.5)
    return TemperedNoise(noise, count)


class TemperedNoise(Noise):
    r"""Noise with the likelihood :math:`p(y | z)^{1 / n}`, for noise that is not Gaussian. See :func:`temper`.

    The power of a density is not normalized, so its logarithm is correct only up to a constant, which no sampler uses. Noise
    is drawn as :math:`\sqrt n` times the original noise.

    Args:
        noise: The original noise, independent between entries.
        count: :math:`n`.
    """

    def __init__(self, noise: Noise, count: int) -> None:
        self.noise, self.count = noise, count
        self.sigma, self.heavy_tailed = noise.sigma * count**0.5, noise.heavy_tailed

    @property
    def shape(self) -> tuple[int, ...]:
        return self.noise.shape

    def add(self, clean: Tensor, streams: Streams) -> Tensor:
        return torch.lerp(clean, self.noise.add(clean, streams), self.count**0.5)

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        return self.noise.log_likelihood(y, clean) / self.count

    def variance(self, y: Tensor, clean: Tensor) -> Tensor:
        return self.count * self.noise.variance(y, clean)

    def squared_misfit(self, y: Tensor, clean: Tensor) -> Tensor:
        return self.noise.squared_misfit(y, clean) / self.count

    def __repr__(self) -> str:
        return f"TemperedNoise({self.noise!r}, {self.count})"
