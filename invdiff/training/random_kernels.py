"""Random blur kernels for training: Gaussian, defocus and camera shake."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from invdiff.operators import defocus_kernel, gaussian_kernel

__all__ = ["random_kernels", "shaken"]

POINTS = 400  # points on a camera path


def random_kernels(count: int, side: int, generator: np.random.Generator) -> Tensor:
    """Return float32 kernels of sum 1, ``(count, side, side)``: 35 % Gaussian, 20 % defocus, 45 % camera shake.

    Args:
        count: Number of kernels.
        side: Side of the kernels in pixels, odd and at least 3. The widest kernels just fit.
        generator: Random generator.
    """
    kernels = np.empty((count, side, side), np.float32)
    for kernel in kernels:
        kind = generator.random()
        kernel[:] = (
            gaussian(generator, side) if kind < 0.35 else disc(generator, side) if kind < 0.55 else shaken(generator, side)
        )
    return torch.from_numpy(kernels)


def gaussian(generator: np.random.Generator, side: int) -> NDArray[np.float64]:
    """Return a Gaussian, isotropic half of the time, with larger standard deviation from 0.5 pixels to ``side / 8``."""
    longer = np.exp(generator.uniform(np.log(0.5), np.log(max(0.6, side / 8))))
    shorter = longer * (1.0 if generator.random() < 0.5 else np.exp(generator.uniform(-1.2, 0)))
    return gaussian_kernel((longer, shorter), side, angle=generator.uniform(0, 180)).numpy()


def disc(generator: np.random.Generator, side: int) -> NDArray[np.float64]:
    """Return a defocus disc with a radius from 0.5 pixels to ``side / 4``."""
    kernel = defocus_kernel(generator.uniform(0.5, max(0.6, side / 4))).numpy()
    margin = (side - len(kernel)) // 2
    return np.pad(kernel, margin)


def shaken(generator: np.random.Generator, side: int) -> NDArray[np.float64]:
    """Return a camera-shake kernel: a path with random drift, inertia and tremor, slightly blurred."""
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
