"""Kernels on the simplex: projection, quadratic problems, pruning and centering."""

from __future__ import annotations

import math

import numpy as np
import scipy
import torch
from torch import Tensor

__all__ = ["centered", "doubled", "on_torus", "onto_simplex", "proximal_step", "pruned", "trimmed"]


def onto_simplex(values: Tensor) -> Tensor:
    """Return the nearest nonnegative array of sum 1.

    References:
        Duchi et al., Efficient projections onto the l1-ball for learning in high dimensions, 2008,
        https://doi.org/10.1145/1390156.1390191
    """
    ordered = values.flatten().sort(descending=True).values
    excess = ordered.cumsum(0) - 1
    counts = torch.arange(1, ordered.numel() + 1, device=values.device)
    last = int((ordered * counts > excess).nonzero().max())
    return (values - excess[last] / (last + 1)).clamp(min=0)


def on_torus(kernel: Tensor, sides: tuple[int, int]) -> Tensor:
    """Return a kernel ``(h, w)`` within an array of ``sides``, with its center ``(h // 2, w // 2)`` at index 0."""
    rows, columns = kernel.shape
    padded = torch.nn.functional.pad(kernel, (0, sides[1] - columns, 0, sides[0] - rows))
    return padded.roll((-(rows // 2), -(columns // 2)), (0, 1))


def proximal_step(kernel: Tensor, gradient: Tensor, power: Tensor, sides: tuple[int, int], *, iterations: int = 40) -> Tensor:
    r"""Return the kernel :math:`k'` on the simplex that minimizes :math:`g^\top k' + \tfrac12 (k' - k)^\top P (k' - k)`.

    By the accelerated gradient method of Beck & Teboulle (2009, https://doi.org/10.1137/080716542).

    Args:
        kernel: :math:`k`, ``(size, size)``.
        gradient: :math:`g`, shaped like the kernel.
        power: The spectrum of :math:`P`, a convolution on the torus, at the frequencies of ``rfft2``.
        sides: Sides of the torus.
        iterations: Number of gradient steps.
    """
    size, steepest = kernel.shape[0], float(power.max())
    now = ahead = kernel
    momentum = 1.0
    for _ in range(iterations):
        product = torch.fft.irfft2(power * torch.fft.rfft2(on_torus(ahead - kernel, sides)), s=sides)
        slope = gradient + product.roll((size // 2, size // 2), (0, 1))[:size, :size]
        new = onto_simplex(ahead - slope / steepest)
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / following * (new - now)
        now, momentum = new, following
    return now


def pruned(kernel: Tensor, share: float) -> Tensor:
    """Return the kernel without values below ``share`` of the largest and without small islands, of sum 1.

    Of the connected parts that are left, the largest and those of at least a twentieth of its weight stay.
    """
    values = kernel.numpy(force=True)
    parts, count = scipy.ndimage.label(values > share * values.max(), structure=np.ones((3, 3)))
    weights = np.asarray(scipy.ndimage.sum(values, parts, range(1, count + 1)))
    kept = np.isin(parts, 1 + np.flatnonzero(weights >= 0.05 * weights.max()))
    left = kernel * torch.from_numpy(kept).to(kernel)
    return left / left.sum()


def centered(kernel: Tensor) -> Tensor:
    """Return the kernel shifted by whole pixels so that its centroid is nearest to the center, in the same square.

    What a shift would carry over the edge is dropped, and the sum is 1 again.
    """
    size = kernel.shape[0]
    places = torch.arange(size, dtype=kernel.dtype, device=kernel.device) - size // 2
    down, right = (round(-float((kernel.sum(axis) * places).sum() / kernel.sum())) for axis in (1, 0))
    reach = max(abs(down), abs(right))
    wide = torch.nn.functional.pad(kernel, (reach,) * 4)
    shifted = wide.roll((down, right), (0, 1))[reach : reach + size, reach : reach + size]
    return shifted / shifted.sum()


def doubled(kernel: Tensor, size: int) -> Tensor:
    """Return a kernel for pixels half as large, ``(size, size)`` with an odd side, linearly interpolated, of sum 1."""
    places = torch.arange(size, dtype=kernel.dtype, device=kernel.device) - size // 2
    distances = (places[:, None] / 2 - (torch.arange(len(kernel)).to(places) - len(kernel) // 2)).abs()
    weights = (1 - distances).clamp(min=0)
    wide = weights @ kernel @ weights.mT
    return wide / wide.sum()


def trimmed(kernels: Tensor, *, tiny: float = 1e-6) -> Tensor:
    """Return kernels ``(..., size, size)`` without margins in which all are below ``tiny`` of the largest value."""
    size = kernels.shape[-1]
    used = (kernels > tiny * kernels.amax((-2, -1), keepdim=True)).reshape(-1, size, size).any(0)
    rows, columns = used.any(1).nonzero(), used.any(0).nonzero()
    margin = int(min(rows.min(), size - 1 - rows.max(), columns.min(), size - 1 - columns.max()))
    inner = kernels[..., margin : size - margin, margin : size - margin]
    return inner / inner.sum((-2, -1), keepdim=True)
