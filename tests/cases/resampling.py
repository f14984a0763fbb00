"""Smaller and larger images."""

from __future__ import annotations

import torch

from invdiff.operators import Downsample, Resize
from invdiff.operators.resampling.downsample import DOWNSAMPLE_KERNELS, BlockMean
from invdiff.operators.resampling.resize import RESIZE_KERNELS

from .registry import cases_of


@cases_of(BlockMean, 1)
def _() -> list[BlockMean]:
    return [BlockMean((3, 8, 12), 2)]


@cases_of(Downsample, 7)
def _() -> list[Downsample]:
    paths = [Downsample((3, 8, 12), 2, kernel=kernel, sigma_y=0.05) for kernel in DOWNSAMPLE_KERNELS]
    blur = torch.rand(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blurs = [Downsample((3, 8, 12), 2, kernel=kernel) for kernel in (blur, blur[:1])]
    return [*paths, Downsample((1, 8, 12), 4, kernel="bicubic"), Downsample((3, 5, 7), 1), *blurs]


@cases_of(Resize, 6)
def _() -> list[Resize]:
    smaller = [Resize((3, 8, 11), (5, 7), kernel=kernel, sigma_y=0.05) for kernel in RESIZE_KERNELS]
    return [*smaller, Resize((2, 5, 7), (9, 8), kernel="bicubic"), Resize((2, 6, 7), (9, 5), kernel="lanczos")]
