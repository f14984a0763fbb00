"""Blur kernels, from kornia. It is imported only when one is built: that takes a noticeable part of a second."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["gaussian_kernel", "motion_kernel"]


def gaussian_kernel(sigma: float, size: int | None = None) -> Tensor:
    r"""Return the kernel :math:`k_{ab} \propto e^{-(a^2 + b^2) / (2 \sigma^2)}`, float64, with sum 1.

    Args:
        sigma: Standard deviation in pixels, positive.
        size: Side in pixels, odd. Default: four standard deviations to each side.

    Raises:
        ValueError: If ``sigma`` is not positive and finite, or ``size`` not a positive odd integer.
    """
    from kornia.filters import get_gaussian_kernel2d

    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"gaussian_kernel: sigma must be positive and finite, got {sigma}.")
    size = 2 * math.ceil(4 * sigma) + 1 if size is None else size
    if not isinstance(size, int) or size < 1 or size % 2 == 0:
        raise ValueError(f"gaussian_kernel: size must be a positive odd integer, so that it has a centre pixel, got {size!r}.")
    kernel: Tensor = get_gaussian_kernel2d(size, torch.tensor([[sigma, sigma]], dtype=torch.float64))
    return kernel[0] / kernel.sum()


def motion_kernel(size: int, angle: float, direction: float = 0.0) -> Tensor:
    """Return the kernel of a straight movement, float64, with sum 1.

    Args:
        size: Length of the movement and side of the kernel in pixels, odd and at least 3.
        angle: Its angle in degrees, counter-clockwise from the horizontal.
        direction: From -1 to 1: how the weight is spread along the line, evenly at 0. At 1 it falls to zero from the left
            end of the unturned line to the right, at -1 from the right to the left.

    Raises:
        ValueError: If ``size`` is even or below 3, ``angle`` not finite, or ``direction`` outside [-1, 1].
    """
    from kornia.filters.kernels_geometry import get_motion_kernel2d

    if not isinstance(size, int) or size < 3 or size % 2 == 0:
        raise ValueError(f"motion_kernel: size must be an odd integer of at least 3, got {size!r}.")
    if not math.isfinite(angle):
        raise ValueError(f"motion_kernel: angle must be finite, in degrees, got {angle}.")
    if not -1 <= direction <= 1:
        raise ValueError(f"motion_kernel: direction must lie in [-1, 1], got {direction}.")
    along = torch.tensor([angle], dtype=torch.float64), torch.tensor([direction], dtype=torch.float64)
    # Bilinear, so that the kernel follows the angle steadily and its length does not jump.
    kernel: Tensor = get_motion_kernel2d(size, *along, mode="bilinear")
    return kernel[0] / kernel.sum()
