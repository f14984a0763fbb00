"""Operators that keep or mix pixels and channels."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.operators import ChannelMix, Crop, Mask, Mosaic
from invdiff.operators.sampling.mosaic import BAYER_PATTERNS

from .registry import cases_of


@cases_of(ChannelMix, 6)
def _() -> list[ChannelMix]:
    spectra = torch.rand(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    deficient = spectra[:, :1] @ spectra[:1] + spectra[:, 1:2] @ spectra[1:2]
    # Wide, tall, and both rank-deficient; without pixel axes, and with three of them.
    shapes: tuple[tuple[tuple[int, ...], Tensor], ...] = (
        ((5, 4, 6), spectra.mT),
        ((3, 4, 6), spectra),
        ((5, 7), deficient.mT),
        ((3, 2, 2, 3), deficient),
        ((3,), spectra[:3]),
    )
    return [ChannelMix.gray((3, 5, 6), sigma_y=0.05), *(ChannelMix(shape, matrix, sigma_y=0.05) for shape, matrix in shapes)]


@cases_of(Crop, 3)
def _() -> list[Crop]:
    inner = Crop((3, 7, 9), top=2, left=1, height=4, width=6, sigma_y=0.05)
    corner = Crop((5, 6), top=0, left=4, height=5, width=2)
    return [inner, corner, Crop((2, 2, 3, 4), top=0, left=0, height=3, width=4)]


@cases_of(Mask, 3)
def _() -> list[Mask]:
    mask = torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(0)) < 0.4
    return [Mask(mask, sigma_y=0.05), Mask(mask[0].float(), (3, 8, 12)), Mask(torch.tensor([1, 0, 0, 1, 1]))]


@cases_of(Mosaic, 6)
def _() -> list[Mosaic]:
    return [
        *(Mosaic((3, 4, 6), pattern, sigma_y=0.05) for pattern in BAYER_PATTERNS),
        Mosaic((3, 5, 7), "GRBG"),
        Mosaic((3, 1, 1), "BGGR"),
    ]
