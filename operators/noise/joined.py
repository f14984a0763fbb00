"""Noise of several measurements that are joined to one, each with its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from invdiff.random import Streams

from ..core.concatenation import Concatenation
from ..core.noise import Noise

__all__ = ["JoinedNoise"]


class JoinedNoise(Noise):
    r"""Independent noise of the parts of a measurement, not Gaussian in at least one of them.

    .. math:: \log p(y | z) = \sum_i \log p_i(y_i | z_i), \qquad v = (v_1, v_2, \dots)

    Args:
        noises: The noise of every part, with ``sigma`` > 0.
        layout: How the parts lie in a measurement.
    """

    def __init__(self, noises: Sequence[Noise], layout: Concatenation) -> None:
        self.noises, self.layout = tuple(noises), layout
        self.sigma = min(noise.sigma for noise in noises)
        self.heavy_tailed = any(noise.heavy_tailed for noise in noises)

    def add(self, clean: Tensor, streams: Streams) -> Tensor:
        parts = zip(self.noises, self.layout.split(clean), strict=True)
        return self.layout.join([noise.add(part, streams) for noise, part in parts])

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        return self._each(lambda noise, y_i, clean_i: noise.log_likelihood(y_i, clean_i), y, clean)

    def variance(self, y: Tensor, clean: Tensor) -> Tensor:
        return self._each(lambda noise, y_i, clean_i: noise.variance(y_i, clean_i), y, clean)

    def squared_misfit(self, y: Tensor, clean: Tensor) -> Tensor:
        return self._each(lambda noise, y_i, clean_i: noise.squared_misfit(y_i, clean_i), y, clean)

    def _each(self, function: Callable[[Noise, Tensor, Tensor], Tensor], y: Tensor, clean: Tensor) -> Tensor:
        parts = zip(self.noises, self.layout.split(y), self.layout.split(clean), strict=True)
        return self.layout.join([function(noise, y_i, clean_i).expand_as(y_i) for noise, y_i, clean_i in parts])

    def __repr__(self) -> str:
        return f"JoinedNoise({', '.join(map(repr, self.noises))})"
