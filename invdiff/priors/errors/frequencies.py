r"""Frequencies of images in cycles per pixel: octave windows, and tables that serve images of every size."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["OCTAVES", "frequencies", "hats", "hats_like", "nodes", "octaves", "smooth"]

OCTAVES = 4  # The last one contains all lower frequencies.


def frequencies(side: int) -> Tensor:
    r"""Return the frequency of each cosine along a side of ``side`` pixels, in cycles per pixel, ``(side,)`` float64.

    These are :math:`k / 2n`, and :math:`1 / 8n` for the constant, which represents all lower frequencies: the middle of
    :math:`[0, 1 / 4n]`.
    """
    k = torch.arange(side, dtype=torch.float64)
    k[0] = 0.25
    return k / (2 * side)


def nodes(side: int) -> Tensor:
    """Return a subset of the frequencies of a side for a table, dense at low and sparser at high frequencies, ``(G,)``."""
    chosen = [0]
    while chosen[-1] < side - 1:
        chosen.append(min(side - 1, chosen[-1] + max(1, min(chosen[-1] // 4, side // 16))))
    return frequencies(side)[chosen]


def hats(side: int, at: Tensor) -> Tensor:
    """Return the matrix that interpolates a table at frequencies ``at``, ``(G,)``, for a side: ``(side, G)`` float64.

    The interpolation is linear in the logarithm of the frequency and constant beyond the ends.
    """
    table, wanted = at.double().log().cpu().numpy(), frequencies(side).log().numpy()
    return torch.from_numpy(np.stack([np.interp(wanted, table, row) for row in np.eye(len(table))], 1))


def hats_like(side: int, at: Tensor, like: Tensor) -> Tensor:
    """Return :func:`hats` in the dtype and on the device of ``like``. The last few are kept."""
    return _hats(side, tuple(at.tolist()), like.dtype, like.device)


def octaves(height: int, width: int, like: Tensor) -> Tensor:
    """Return smooth octave windows over the frequencies of an image, ``(OCTAVES, H, W)``, highest frequencies first.

    Their squares sum to 1 at every frequency.
    """
    return _octaves(height, width, like.dtype, like.device)


def smooth(x: Tensor, width: float) -> Tensor:
    """Smooth the last two axes of ``x`` by a Gaussian of standard deviation ``width`` pixels, with a replicated border."""
    radius = max(1, int(2.5 * width))
    offsets = torch.arange(radius + 1, dtype=torch.float64)
    weights = torch.exp(-(offsets**2) / (2 * width**2))
    weights /= weights[0] + 2 * weights[1:].sum()
    center, *others = weights.tolist()
    smoothed = x.reshape(-1, *x.shape[-2:])
    for axis in (-2, -1):
        # A sum of shifted images: several times faster on a CPU than a convolution of single channels.
        padding = (0, 0, radius, radius) if axis == -2 else (radius, radius, 0, 0)
        padded, side = F.pad(smoothed, padding, mode="replicate"), x.shape[axis]
        smoothed = center * padded.narrow(axis, radius, side)
        for offset, weight in enumerate(others, start=1):
            smoothed.add_(padded.narrow(axis, radius - offset, side), alpha=weight)
            smoothed.add_(padded.narrow(axis, radius + offset, side), alpha=weight)
    return smoothed.reshape(x.shape)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def _hats(side: int, at: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return hats(side, torch.tensor(at, dtype=torch.float64)).to(device, dtype)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # Cached tensors must be usable in later gradients.
def _octaves(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    rows, columns = (torch.arange(side, dtype=torch.float64) / side for side in (height, width))
    below = -torch.hypot(rows[:, None], columns).clamp(min=1e-9).log2()  # Octaves below the Nyquist frequency.
    windows, rest = [], torch.ones_like(below)
    for octave in range(OCTAVES - 1):
        phase = math.pi / 2 * ((below - octave - 1) / 0.8).clamp(0, 1)
        windows.append(rest * phase.cos())
        rest = rest * phase.sin()
    return torch.stack([*windows, rest]).to(device, dtype)
