r"""Random noise covariances for training: levels that vary between pixels, frequencies or other basis vectors.

The exact posterior score (:class:`~invdiff.methods.guidance.ExactScore`) evaluates the denoiser on images with Gaussian noise
of covariance :math:`(I / \varsigma^2 + A^\top A / \sigma_y^2)^{-1}`. This module draws such covariances at random, diagonal in
the singular bases of masks, circular blurs and decimations.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.linalg import over_items
from invdiff.noise_covariance import NoiseCovariance
from invdiff.operators import Resize
from invdiff.operators.blur.convolution import HartleySVD
from invdiff.operators.core.pivot import pivot_levels
from invdiff.operators.core.svd import SVD, CoordinateSVD
from invdiff.training.levels import LEVELS, log_uniform, noise_levels, state_levels
from invdiff.training.random_kernels import random_kernels
from invdiff.training.random_masks import random_masks
from invdiff.training.settings import Settings

__all__ = ["SHARES", "Drawn", "NoiseLaw", "kernel_side", "share_of"]

# Share of the crops with each kind of noise: three eighths are white, and of the others two thirds come from masks.
SHARES = {"white": 3 / 8, "mask": 5 / 12, "blur": 5 / 48, "decimation": 5 / 48}
MASKS, KERNELS = 1000, 600  # drawn once per crop size
LARGEST_KERNEL = 31  # pixels
FACTORS = (2, 2, 3, 4, 4)  # of decimations, drawn uniformly from this list, as are the filters: repeats count
FILTERS = ("bicubic", "bicubic", "area")
# Range of the measurement noise levels, and share of the measurements without noise.
MASK_NOISE, EXACT_MASKS = (LEVELS[0], 0.3), 0.3
BLUR_NOISE, EXACT_BLURS = (0.004, 0.25), 0.0
DECIMATION_NOISE, EXACT_DECIMATIONS = (LEVELS[0], 0.2), 0.6
SMOOTH = 0.1  # share of the masks that are replaced by smoothly varying levels
PRECISE = 0.03  # level below which pixels get less weight: they are almost known, and preconditioning amplifies their errors


@dataclass(frozen=True, eq=False)
class Drawn:
    """Noise covariances of some crops of a batch.

    Attributes:
        cov: The covariances, ``(B, ...)``.
        weight: Weights of the squared errors of the network output, ``(B, 1, 1, 1)`` or ``(B, C, H, W)``.
    """

    cov: NoiseCovariance
    weight: Tensor

    def __len__(self) -> int:
        return len(self.cov.levels)

    def part(self, rows: slice, device: torch.device) -> Drawn:
        """Return the covariances and weights of some crops, on ``device``."""
        cov = NoiseCovariance(self.cov.basis, self.cov.levels[rows].to(device))
        return Drawn(cov, self.weight[rows].to(device))


class NoiseLaw:
    """Distribution of random noise covariances for batches of crops.

    Masks and blur kernels are chosen at random from banks that depend only on the seed and the size, and masks are flipped and
    transposed at random. Everything that changes from step to step is drawn with the generator of the step.

    Args:
        settings: Training settings: the seed and the distribution of white-noise levels.
        channels: Channels of the images.
    """

    def __init__(self, settings: Settings, channels: int) -> None:
        self.settings, self.channels = settings, channels
        self.masks, self.kernels = functools.cache(self._mask_bank), functools.cache(self._kernel_bank)
        self.decimation = functools.cache(self._decimation)

    def draw(self, count: int, side: int, generator: torch.Generator, *, late: bool = False) -> list[Drawn]:
        """Return covariances for ``count`` crops in the order white, masks, blurs, decimations.

        The number of each kind is ``count`` times its share in :data:`SHARES`, rounded up or down at random.
        """
        places = (torch.arange(count) + torch.rand((), generator=generator)) / count
        edges = torch.tensor(list(SHARES.values())).cumsum(0)[:-1]
        counts = torch.bincount(torch.bucketize(places, edges, right=True), minlength=len(SHARES)).tolist()
        draws = (self._white, self._mask, self._blur, self._decimated)
        return [draw(n, side, generator, late) for draw, n in zip(draws, counts, strict=True) if n]

    def _white(self, count: int, side: int, generator: torch.Generator, late: bool) -> Drawn:
        levels = noise_levels(self.settings, count, generator, late=late)
        return self._drawn(self._pixels(side), over_items(levels, torch.empty(1, 1, 1, 1)))

    def _mask(self, count: int, side: int, generator: torch.Generator, late: bool) -> Drawn:
        masks = self.masks(side)[torch.randint(MASKS, (count,), generator=generator)]
        for turn in (_mirrored, _upended, _transposed):
            chosen = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
            masks = torch.where(chosen, turn(masks), masks)
        state, noise = self._state_and_noise(count, generator, late, MASK_NOISE, EXACT_MASKS)
        levels = pivot_levels(masks.float(), state, noise).clamp(*LEVELS)
        smooth = torch.rand(count, 1, 1, 1, generator=generator) < SMOOTH
        field = self._smooth(count, side, generator)
        known = pivot_levels(torch.ones(()), state, noise).clamp(*LEVELS)
        levels = torch.where(smooth, known * (state / known) ** field, levels)
        return self._drawn(self._pixels(side), levels, (levels / PRECISE).clamp(0.1, 1))

    def _blur(self, count: int, side: int, generator: torch.Generator, late: bool) -> Drawn:
        kernels = self.kernels(side)[torch.randint(KERNELS, (count, 1), generator=generator)]
        state, noise = self._state_and_noise(count, generator, late, BLUR_NOISE, EXACT_BLURS)
        gain = torch.fft.fft2(kernels, s=(side, side)).abs()
        return self._drawn(self._frequencies(side), pivot_levels(gain, state, noise))

    def _decimated(self, count: int, side: int, generator: torch.Generator, late: bool) -> Drawn:
        factor, kernel = (options[int(torch.randint(len(options), (), generator=generator))] for options in (FACTORS, FILTERS))
        svd = self.decimation(side, factor, kernel)
        state, noise = self._state_and_noise(count, generator, late, DECIMATION_NOISE, EXACT_DECIMATIONS)
        return self._drawn(svd, pivot_levels(svd.singular, state, noise))

    def _drawn(self, basis: SVD, levels: Tensor, weight: Tensor | None = None) -> Drawn:
        cov = NoiseCovariance(basis, levels).clamp(*LEVELS)
        return Drawn(cov, torch.ones(len(levels), 1, 1, 1) if weight is None else weight)

    def _state_and_noise(
        self, count: int, generator: torch.Generator, late: bool, noise: tuple[float, float], exact: float
    ) -> tuple[Tensor, Tensor]:
        """Draw noise levels of state and measurement, ``(count, 1, 1, 1)``; a share ``exact`` of the latter is 0."""
        state = state_levels(count, generator, late=late)
        sigma_y = log_uniform(count, *noise, generator)
        sigma_y = torch.where(torch.rand(count, generator=generator) < exact, 0, sigma_y)
        return state.reshape(-1, 1, 1, 1), sigma_y.reshape(-1, 1, 1, 1)

    def _smooth(self, count: int, side: int, generator: torch.Generator) -> Tensor:
        """Draw smooth fields from 0 to 1, ``(count, C, side, side)``; 30 % of them differ between channels."""
        knots = int(torch.randint(2, 9, (), generator=generator))
        coarse = torch.randn(count, self.channels, knots, knots, generator=generator)
        alike = torch.rand(count, 1, 1, 1, generator=generator) < 0.7
        fields = F.interpolate(torch.where(alike, coarse[:, :1], coarse), (side, side), mode="bicubic")
        lowest, highest = fields.amin((1, 2, 3), keepdim=True), fields.amax((1, 2, 3), keepdim=True)
        return (fields - lowest) / (highest - lowest)

    def _pixels(self, side: int) -> SVD:
        return CoordinateSVD(torch.ones(()), (self.channels, side, side))

    def _frequencies(self, side: int) -> SVD:
        return HartleySVD((1, side, side), torch.ones(side, side, dtype=torch.complex64))

    def _decimation(self, side: int, factor: int, kernel: str) -> SVD:
        svd = Resize((1, side, side), (side // factor,) * 2, kernel=kernel).svd
        assert svd is not None
        return svd.to(dtype=torch.float32)

    def _mask_bank(self, side: int) -> Tensor:
        return random_masks(MASKS, self.channels, side, self._bank_generator(side))

    def _kernel_bank(self, side: int) -> Tensor:
        return random_kernels(KERNELS, kernel_side(side), self._bank_generator(side))

    def _bank_generator(self, side: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.settings.seed, spawn_key=(side, self.channels)))


def share_of(drawn: Sequence[Drawn], share: slice, device: torch.device) -> list[Drawn]:
    """Return the covariances and weights of the crops ``share`` of a batch, on ``device``."""
    starts = itertools.accumulate((len(part) for part in drawn), initial=0)
    rows = (slice(max(share.start - start, 0), max(share.stop - start, 0)) for start in starts)
    parts = (part.part(own, device) for part, own in zip(drawn, rows, strict=False))
    return [part for part in parts if len(part)]


def kernel_side(side: int) -> int:
    """Return the side of the blur kernels for crops of side ``side``: odd, at most 31 and at most ``side``."""
    return min(LARGEST_KERNEL, side - 1 + side % 2)


def _mirrored(masks: Tensor) -> Tensor:
    return masks.flip(-1)


def _upended(masks: Tensor) -> Tensor:
    return masks.flip(-2)


def _transposed(masks: Tensor) -> Tensor:
    return masks.mT
