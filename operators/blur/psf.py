"""Diffraction: the point spread function of a lens with aberrations."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping

import torch
from torch import Tensor

from ..core.validation import odd_size, whole_number
from .kernels import disc

__all__ = ["psf_kernel", "zernike"]

PUPIL = 128  # Minimum number of samples across the pupil: the error of the Airy pattern is then at most 1e-4 of its peak.


def psf_kernel(
    size: int,
    coefficients: Mapping[int, float],
    *,
    wavelength: float,
    numerical_aperture: float,
    pixel_size: float,
    samples: int = 1,
) -> Tensor:
    r"""Return the intensity in the image of a point seen through a circular pupil, float64, with sum 1.

    .. math:: k(u) \propto \left| \int_{|\rho| \le 1} e^{2 \pi i W(\rho)}\,
        e^{-2 \pi i\, u \cdot \rho\, \mathrm{NA} / \lambda}\, \mathrm{d}\rho \right|^2, \qquad
        W = \sum_j a_j Z_j

    for incoherent light, in scalar paraxial diffraction, which is accurate for NA up to about 0.6. The pupil is sampled on a
    grid, with its rim weighted by area, and Fourier-transformed at the exact positions of the pixels by matrix products, so
    the pixel size is not rounded.

    Without aberrations this is the Airy pattern, with its first dark ring at :math:`0.61\, \lambda / \mathrm{NA}` from the
    center. Small aberrations lower the peak by a factor of about :math:`\exp(-(2 \pi \sigma)^2)` (Strehl, Maréchal), where
    :math:`\sigma^2 = \sum_{j \ge 4} a_j^2`. Tilts only shift it.

    Args:
        size: Side of the kernel in pixels, odd.
        coefficients: :math:`a_j` in waves by Noll index :math:`j`: 2 and 3 tilt, 4 defocus, 5 and 6 astigmatism, 7 and 8 coma,
            11 spherical aberration. Positive tilts move the image right and up by :math:`2 a_j \lambda / \mathrm{NA}`. Empty:
            a perfect lens.
        wavelength: :math:`\lambda`, in the unit of ``pixel_size``.
        numerical_aperture: NA on the image side: for a microscope the NA of the objective divided by the magnification, for a
            camera of f-number :math:`N` it is :math:`1 / (2 N)`. NA and pixel size may also both refer to the object side.
        pixel_size: Side of a pixel. Below :math:`\lambda / (4\, \mathrm{NA})` the image is sampled without aliasing.
        samples: Points along each side of a pixel over which the intensity is averaged. 1 takes the value at its center; more
            points approach the mean over its area, which a camera measures.

    Raises:
        TypeError: If a Noll index is not an integer.
        ValueError: If ``size`` is not a positive odd integer, a length or the NA is not positive and finite, a coefficient is
            not finite, or ``samples`` or a Noll index is below 1.

    References:
        Noll, Zernike polynomials and atmospheric turbulence, 1976, https://doi.org/10.1364/JOSA.66.000207;
        Soummer et al., Fast computation of Lyot-style coronagraph propagation, 2007, https://doi.org/10.1364/OE.15.015935
        (the transform by matrices)
    """
    size, samples = odd_size("psf_kernel", size), whole_number("psf_kernel", "samples", samples)
    lengths = {"wavelength": wavelength, "numerical_aperture": numerical_aperture, "pixel_size": pixel_size}
    for name, value in lengths.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"psf_kernel: {name} must be positive and finite, got {value}.")
    if not all(math.isfinite(a) for a in coefficients.values()):
        raise ValueError(f"psf_kernel: coefficients must be finite, in waves, got {dict(coefficients)}.")

    # Positions are in units of lambda / NA, like slopes of the wavefront in waves. A pupil of n samples gives an image of
    # period n / 2, which must be larger than the kernel and the displacement of the steepest rays.
    positions = torch.arange(size * samples, dtype=torch.float64) - (size * samples - 1) / 2
    positions = positions / samples * pixel_size * numerical_aperture / wavelength
    steepest = sum(abs(amount) * _slope(index) for index, amount in coefficients.items())
    pupil = max(PUPIL, 8 * math.ceil(float(positions[-1]) + steepest))
    axis = (torch.arange(pupil, dtype=torch.float64) - (pupil - 1) / 2) * 2 / pupil
    right, up = axis, -axis.unsqueeze(1)  # Rows are counted downward.
    rho, theta = torch.hypot(right, up), torch.atan2(up, right)
    waves = torch.zeros(pupil, pupil, dtype=torch.float64)
    for index, amount in coefficients.items():
        waves = waves + amount * zernike(index, rho, theta)
    field = torch.polar(disc(1.0, pupil, 2 / pupil), 2 * math.pi * waves)
    ones = torch.ones((), dtype=torch.float64)
    transform = torch.polar(ones, -2 * math.pi * positions.outer(axis))
    intensity = (transform @ field @ transform.mT).abs() ** 2
    kernel: Tensor = intensity.reshape(size, samples, size, samples).mean((1, 3))
    return kernel / kernel.sum()


def zernike(index: int, rho: Tensor, theta: Tensor) -> Tensor:
    r"""Return a Zernike polynomial, with root mean square 1 over the unit disc and orthogonal to the others.

    .. math:: Z_j = \sqrt{n + 1}\, R_n^0(\rho), \quad \sqrt{2 (n + 1)}\, R_n^m(\rho) \cos m\theta \;(j \text{ even}), \quad
        \sqrt{2 (n + 1)}\, R_n^m(\rho) \sin m\theta \;(j \text{ odd})

    Args:
        index: Noll's index :math:`j`, from 1 (the constant).
        rho: Radius, not negative. The polynomial is not cut off beyond 1.
        theta: Angle in radians, in the shape of ``rho``.

    Raises:
        TypeError: If ``index`` is not an integer.
        ValueError: If it is below 1.
    """
    from scipy.special import eval_jacobi

    degree, frequency = _noll(index)
    depth = (degree - frequency) // 2
    jacobi = torch.from_numpy(eval_jacobi(depth, frequency, 0, 1 - 2 * rho.numpy(force=True) ** 2)).to(rho)
    polynomial: Tensor = math.sqrt(degree + 1) * (-1) ** depth * rho**frequency * jacobi
    if frequency == 0:
        return polynomial
    return math.sqrt(2) * polynomial * ((frequency * theta).cos() if index % 2 == 0 else (frequency * theta).sin())


def _noll(index: int) -> tuple[int, int]:
    """Return the radial degree n and the angular frequency m of a polynomial."""
    try:
        index = operator.index(index)
    except TypeError:
        raise TypeError(f"zernike: a Noll index must be an integer, got {index!r}.") from None
    if index < 1:
        raise ValueError(f"zernike: Noll indices count from 1 (piston), got {index}.")
    degree = (math.isqrt(8 * index - 7) - 1) // 2
    place = index - degree * (degree + 1) // 2  # Position among the degree + 1 polynomials of this degree, from 1.
    return degree, 2 * (place // 2) if degree % 2 == 0 else 2 * ((place - 1) // 2) + 1


def _slope(index: int) -> float:
    """Return a bound on the gradient of a polynomial within the unit disc."""
    degree, _ = _noll(index)
    return math.sqrt(2 * (degree + 1)) * degree * (degree + 2) / 2
