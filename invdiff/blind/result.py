"""The result of blind deconvolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from invdiff.blind.simplex import centered
from invdiff.posterior import Posterior

__all__ = ["BlindPosterior"]


@dataclass(frozen=True, eq=False)
class BlindPosterior:
    """Samples of the image, of its kernel and of the parameters, given a measurement.

    Attributes:
        posterior: Image samples, ``(N, B, C, H, W)``: sample ``k`` of item ``b`` under ``kernels[k, b]``. With the boundary
            ``valid`` they are larger than the measurement; :meth:`framed` cuts out what it shows.
        kernels: Kernels of the image samples, ``(N, B, kh, kw)``, with sum 1. A shift of the kernel and the opposite shift of
            the image cannot be told apart: the centroid is at the middle pixel, to the nearest pixel.
        parameters: Draws of each parameter, ``(M, B)``; also ``sigma_y`` if it was estimated, in the units of ``y``. Angles are
            in degrees around their estimate, so that they may leave [0, 180).
        notes: Sentences for every item, for example that no kernel explains the picture.
        size: Height and width of the part of the image samples that the measurement shows.
    """

    posterior: Posterior
    kernels: Tensor
    parameters: Mapping[str, Tensor]
    notes: tuple[tuple[str, ...], ...]
    size: tuple[int, int]

    @cached_property
    def kernel(self) -> Tensor:
        """Mean of the kernels, centered, ``(B, kh, kw)``."""
        return torch.stack([centered(mean) for mean in self.kernels.mean(0)])

    @cached_property
    def estimate(self) -> dict[str, Tensor]:
        """Median of each parameter, ``(B,)``."""
        return {name: torch.quantile(draws, 0.5, dim=0) for name, draws in self.parameters.items()}

    def interval(self, probability: float) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the central interval of each parameter that holds this probability: two ends, ``(B,)`` each."""
        if not 0 < probability < 1:
            raise ValueError(f"interval: the probability must lie strictly between 0 and 1, got {probability}.")
        tail = (1 - probability) / 2
        ends = {
            name: torch.quantile(draws, draws.new_tensor([tail, 1 - tail]), dim=0) for name, draws in self.parameters.items()
        }
        return {name: (low, high) for name, (low, high) in ends.items()}

    def framed(self, x: Tensor) -> Tensor:
        """Return the part of images ``(..., H, W)`` of the size of the samples that the measurement shows."""
        return middle_of(x, self.size)


def middle_of(x: Tensor, sides: tuple[int, ...]) -> Tensor:
    """Return the middle ``(..., h, w)`` of images ``(..., H, W)``, for even differences of the sides."""
    top, left = ((have - want) // 2 for have, want in zip(x.shape[-2:], sides, strict=True))
    return x[..., top : top + sides[0], left : left + sides[1]]
