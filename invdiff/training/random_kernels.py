"""Random blurs for training: Gaussians, lenses out of focus, and shaking cameras."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from invdiff.operators import defocus_kernel, gaussian_kernel

__all__ = ["random_kernels", "shaken"]

POINTS = 400  # of the path of a camera


def random_kernels(count: int, side: int, generator: np.random.Generator) -> Tensor:
    """Return kernels of sum 1, float32, ``(count, side, side)``: 35 % Gaussian, 20 % discs, 45 % paths.

    Args:
        count: How many.
        side: Their side in pixels, odd and at least 3. All of them fit in, the widest just so.
        generator: Of all that is random.
    """
    kernels = np.empty((count, side, side), np.float32)
    for kernel in kernels:
        kind = generator.random()
        kernel[:] = (
            gaussian(generator, side) if kind < 0.35 else disc(generator, side) if kind < 0.55 else shaken(generator, side)
        )
    return torch.from_numpy(kernels)


def gaussian(generator: np.random.Generator, side: int) -> NDArray[np.float64]:
    """Return a Gaussian, round as often as oblong, whose longer standard deviation is 0.5 pixels to an eighth of ``side``."""
    longer = np.exp(generator.uniform(np.log(0.5), np.log(max(0.6, side / 8))))
    shorter = longer * (1.0 if generator.random() < 0.5 else np.exp(generator.uniform(-1.2, 0)))
    return gaussian_kernel((longer, shorter), side, angle=generator.uniform(0, 180)).numpy()


def disc(generator: np.random.Generator, side: int) -> NDArray[np.float64]:
    """Return a disc with a radius from half a pixel to a quarter of ``side``."""
    kernel = defocus_kernel(generator.uniform(0.5, max(0.6, side / 4))).numpy()
    margin = (side - len(kernel)) // 2
    return np.pad(kernel, margin)


def shaken(generator: np.random.Generator, side: int) -> NDArray[np.float64]:
    """Return the path of a camera that shakes: drift, inertia and tremor in random proportions, a little out of focus."""
    inertia, drift = generator.uniform(0, 1), generator.normal(0, 10, 2)
    tremor = generator.normal(0, 30, (POINTS, 2))
    path = np.cumsum(np.cumsum(generator.normal(size=(POINTS, 2)), 0) * inertia + drift + tremor, 0)
    path -= path.mean(0)
    path *= generator.uniform(0.1, 0.8) * (side / 2) / np.abs(path).max()
    edges = np.arange(side + 1) - side / 2
    hits, _, _ = np.histogram2d(path[:, 0], path[:, 1], bins=[edges, edges])
    kernel: NDArray[np.float64] = gaussian_filter(hits, generator.uniform(0.3, 0.8), mode="constant")
    kernel /= kernel.sum()
    return kernel
