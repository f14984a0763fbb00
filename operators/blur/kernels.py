"""Blur kernels. Kornia is imported only on use, because the import is slow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import SupportsFloat

import torch
from torch import Tensor

from ..core.validation import odd_size

__all__ = ["defocus_kernel", "gaussian_kernel", "motion_kernel"]


def gaussian_kernel(sigma: float | Sequence[float], size: int | None = None, *, angle: float = 0.0) -> Tensor:
    r"""Return a Gaussian kernel, float64, with sum 1.

    .. math:: k_{ab} \propto \exp\left( -\frac{u^2}{2 \sigma_u^2} - \frac{v^2}{2 \sigma_v^2} \right), \qquad
        u = b \cos\theta - a \sin\theta, \quad v = b \sin\theta + a \cos\theta

    with :math:`a` rows below the center and :math:`b` columns to the right of it.

    Args:
        sigma: Standard deviation in pixels, positive; or two of them: along ``angle`` and across it.
        size: Side in pixels, odd. Default: four times the largest standard deviation to each side.
        angle: :math:`\theta` in degrees, counter-clockwise from the horizontal.

    Raises:
        ValueError: If a ``sigma`` is not positive and finite, there are more than two, ``size`` is not a positive odd
            integer, or ``angle`` is not finite.
    """
    sigmas = (float(sigma),) * 2 if isinstance(sigma, SupportsFloat) else tuple(map(float, sigma))
    if len(sigmas) != 2:
        raise ValueError(f"gaussian_kernel: sigma must be a number or two, along and across the angle, got {sigma}.")
    if not all(math.isfinite(s) and s > 0 for s in sigmas):
        raise ValueError(f"gaussian_kernel: sigma must be positive and finite, got {sigma}.")
    if not math.isfinite(angle):
        raise ValueError(f"gaussian_kernel: angle must be finite, in degrees, got {angle}.")
    size = 2 * math.ceil(4 * max(sigmas)) + 1 if size is None else size
    size = odd_size("gaussian_kernel", size)
    right = torch.arange(size, dtype=torch.float64) - size // 2
    down = right.unsqueeze(1)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    along, across = right * cos - down * sin, right * sin + down * cos
    kernel = (-((along / sigmas[0]) ** 2 + (across / sigmas[1]) ** 2) / 2).exp()
    return kernel / kernel.sum()


def defocus_kernel(radius: float) -> Tensor:
    r"""Return the defocus kernel, float64, with sum 1: a disc, where each pixel has the area of its overlap as weight.

    In geometrical optics the image of a point out of focus has the shape of the aperture: for a circular aperture a uniform
    disc, the circle of confusion. A lens of focal length :math:`f` and f-number :math:`N` focused at distance :math:`s` images
    a point at distance :math:`d` (all in the same unit of length) as a disc with the radius, in pixels of pitch :math:`p`,

    .. math:: r = \frac{f^2}{2 N p}\, \frac{|d - s|}{d\, (s - f)}

    Diffraction is neglected; see :func:`psf_kernel`. The side of the kernel is the smallest odd number that contains the disc.

    Args:
        radius: Radius :math:`r` of the disc in pixels, positive. Up to 0.5 the kernel is a single pixel.

    Raises:
        ValueError: If ``radius`` is not positive and finite.
    """
    if not (math.isfinite(radius) and radius > 0):
        raise ValueError(f"defocus_kernel: radius must be positive and finite, in pixels, got {radius}.")
    return disc(radius, 2 * math.ceil(radius - 0.5) + 1, 1.0) / (math.pi * radius**2)


def disc(radius: float, size: int, pitch: float) -> Tensor:
    """Return the exact area of a disc within each pixel of a square grid centered on it, float64, shape ``(size, size)``.

    Args:
        radius: Radius of the disc.
        size: Pixels along a side of the grid.
        pitch: Side of a pixel, in the unit of ``radius``.
    """
    edges = pitch * (torch.arange(size + 1, dtype=torch.float64) - size / 2)
    edges = edges.clamp(-radius, radius)
    x, y = edges.abs(), edges.abs().unsqueeze(1)

    def under_arc(t: Tensor) -> Tensor:
        return (t * (radius**2 - t**2).clamp(min=0).sqrt() + radius**2 * (t / radius).asin()) / 2

    # The area of the disc in [0, x] x [0, y]: a rectangle up to where the arc falls below y, then the area under the arc.
    turn = torch.minimum((radius**2 - y**2).clamp(min=0).sqrt(), x)
    corner = (y * turn + under_arc(x) - under_arc(turn)) * edges.sign() * edges.unsqueeze(1).sign()
    return corner.diff(dim=0).diff(dim=1).clamp(min=0)  # Inclusion-exclusion over corners.


def motion_kernel(size: int, angle: float, direction: float = 0.0) -> Tensor:
    """Return the kernel of linear motion blur, float64, with sum 1.

    Args:
        size: Length of the motion and side of the kernel in pixels, odd and at least 3.
        angle: Angle of the motion in degrees, counter-clockwise from the horizontal.
        direction: Distribution of the weight along the line, from -1 to 1. At 0 it is uniform. At 1 it falls to zero from the
            left end of the line (before the rotation by ``angle``) to the right end, at -1 from the right end to the left.

    Raises:
        ValueError: If ``size`` is even or below 3, ``angle`` is not finite, or ``direction`` is outside [-1, 1].
    """
    from kornia.filters.kernels_geometry import get_motion_kernel2d

    size = odd_size("motion_kernel", size, least=3)
    if not math.isfinite(angle):
        raise ValueError(f"motion_kernel: angle must be finite, in degrees, got {angle}.")
    if not -1 <= direction <= 1:
        raise ValueError(f"motion_kernel: direction must lie in [-1, 1], got {direction}.")
    along = torch.tensor([angle], dtype=torch.float64), torch.tensor([direction], dtype=torch.float64)
    # Bilinear interpolation, so that the kernel and its length are continuous in the angle.
    kernel: Tensor = get_motion_kernel2d(size, *along, mode="bilinear")
    return kernel[0] / kernel.sum()
