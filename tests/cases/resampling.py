"""Smaller and larger images."""

from __future__ import annotations

import torch

from invdiff.operators import Downsample, Resize
from invdiff.operators.resampling.downsample import DOWNSAMPLE_KERNELS, BlockMean
from invdiff.operators.resampling.resize import RESIZE_KERNELS

from .registry import cases_of


@cases_of(BlockMean, 2)
def _() -> list[BlockMean]:
    return [BlockMean((3, 8, 12), (2, 2)), BlockMean((2, 4, 6, 3), (4, 2, 1))]


@cases_of(Downsample, 10)
def _() -> list[Downsample]:
    paths = [Downsample((3, 8, 12), 2, kernel=kernel, sigma_y=0.05) for kernel in DOWNSAMPLE_KERNELS]
    blur = torch.rand(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blurs = [Downsample((3, 8, 12), 2, kernel=kernel) for kernel in (blur, blur[:1])]
    volumes = [Downsample((2, 4, 6, 8), factor, sigma_y=0.05) for factor in (2, (4, 1, 1))]
    cubes = Downsample((1, 4, 6, 6), (2, 3, 1), kernel=blur[:, :3].expand(2, 3, 3))
    return [*paths, Downsample((1, 8, 12), 4, kernel="bicubic"), Downsample((3, 5, 7), 1), *blurs, *volumes, cubes]


@cases_of(Resize, 6)
def _() -> list[Resize]:
    smaller = [Resize((3, 8, 11), (5, 7), kernel=kernel, sigma_y=0.05) for kernel in RESIZE_KERNELS]
    return [*smaller, Resize((2, 5, 7), (9, 8), kernel="bicubic"), Resize((2, 6, 7), (9, 5), kernel="lanczos")]
