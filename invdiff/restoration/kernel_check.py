r"""Check of a blur kernel against the spectrum of the picture that it is said to have blurred, before sampling.

Under a wrong kernel, posterior samples can explain the data all the same, by stripes at the frequencies that the kernel removes
and the picture has: their misfit is 1. But photographs have no such stripes. The check compares how well kernels explain the
spectrum of the measured picture when the spectrum of the scene is that of photographs,

.. math:: \mathbb{E} |\hat y_f|^2 = a \lVert f \rVert^{-b} |\hat k_f|^2 + \sigma_y^2,

with the likelihood of Whittle (1953), maximized over :math:`a` and :math:`b`; the periodogram is that of a Hann window, whose
leakage the model includes. Only :math:`|\hat k_f|` counts, so a kernel that is shifted or turned by 180 degrees passes.
``benchmarks/RESULTS.md`` has the rates of false alarms and of detections.

References:
    Whittle, Estimation and Information in Stationary Time Series, 1953, https://doi.org/10.1007/BF02590998

    Field, Relations between the statistics of natural images and the response properties of cortical cells, 1987,
    https://doi.org/10.1364/JOSAA.4.002379
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray
from torch import Tensor

from invdiff.operators.blur.kernels import defocus_kernel, gaussian_kernel

__all__ = ["Verdict", "check_kernel"]

Array = NDArray[np.float64]

SIDE = 256  # largest side of the part of the picture that is looked at
SLOPES = (1.2, 1.6, 2.0, 2.4, 2.8, 3.2)  # values of b: photographs have 1.5 to 3
LOWEST = 3.5  # periods across the window: leakage of the mean and of the first periods reaches to here
MARGIN = 0.05  # gain in log-likelihood per frequency that is reported: above nearly all gains over right kernels
GAUSSIANS, DISCS = (
    (0.7, 1.0, 1.4, 2.0, 2.8, 4.0),
    (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0),
)  # standard deviations and radii in pixels
COUNTED = 5000  # frequencies, evenly spread, for time
SCALES = (0.5, 0.7, 1.4, 2.0)  # of the kernel itself
ROUNDING = 2 / 255 / 12**0.5  # standard deviation of the rounding to 8 bits, for data that are said to be exact


@dataclass(frozen=True)
class Verdict:
    """How well a kernel explains the spectrum of a picture.

    Attributes:
        gain: Log-likelihood per frequency that the best other kernel gains over the given one.
        better: Description of that kernel.
    """

    gain: float
    better: str

    @property
    def wrong(self) -> bool:
        """Whether the kernel does not explain the spectrum."""
        return self.gain > MARGIN


def check_kernel(y: Tensor, kernel: Tensor, sigma_y: float) -> Verdict | None:
    """Compare a blur kernel with others: no blur, Gaussians, discs, and the kernel made smaller or larger.

    Args:
        y: Blurred pictures of one scene, ``(C, H, W)``: its channels.
        kernel: The kernel, ``(h, w)``.
        sigma_y: Standard deviation of the noise, in the units of ``y``. 0: rounding to 8 bits.

    Returns:
        The verdict; ``None`` if the picture is constant, or too small, with a side below 32 or three times that of the kernel.
    """
    pixels = y.detach().cpu().double().numpy()
    sides = [min(side, max(SIDE, 3 * max(kernel.shape))) for side in pixels.shape[1:]]
    if min(sides) < max(32, 3 * max(kernel.shape)) or not np.isfinite(pixels).all():
        return None
    top, left = ((whole - side) // 2 for whole, side in zip(pixels.shape[1:], sides, strict=True))
    spectrum = Spectrum(pixels[:, top : top + sides[0], left : left + sides[1]], sigma_y or ROUNDING)
    if not spectrum.power.any():
        return None
    given = kernel.detach().cpu().double().numpy()
    given = given / given.sum()
    own = spectrum.misfit(given)
    gains = {name: own - spectrum.misfit(other) for name, other in _others(given, min(sides))}
    better = max(gains, key=lambda name: gains[name])
    return Verdict(float(gains[better]), better)


class Spectrum:
    """Periodogram of pictures ``(C, H, W)``, averaged over the channels, with the white noise in it."""

    def __init__(self, y: Array, sigma_y: float) -> None:
        self.shape, self.noise = y.shape[1:], sigma_y**2
        window = np.outer(*(np.hanning(side + 2)[1:-1] for side in self.shape))
        flat = y - (y * window).sum((1, 2), keepdims=True) / window.sum()
        power = (np.abs(np.fft.rfft2(flat * window)) ** 2).mean(0) / (window**2).sum()
        leakage = np.abs(np.fft.fft2(window)) ** 2
        self.leakage = np.fft.rfft2(leakage / leakage.sum())
        rows, columns = (np.fft.fftfreq(side) for side in self.shape)
        self.frequency = np.hypot(rows[:, None], columns)
        self.frequency[0, 0] = np.inf  # The mean is subtracted.
        seen = self.frequency[:, : power.shape[1]] > LOWEST / min(self.shape)
        seen[0, 0] = False
        places = np.flatnonzero(seen)
        self.places = places[:: max(1, len(places) // COUNTED)]
        self.power = power.flat[self.places]

    def misfit(self, kernel: Array) -> float:
        """Return the smallest negative log-likelihood per frequency over amplitude and slope of the scene's spectrum."""
        response = np.abs(np.fft.fft2(kernel, s=self.shape)) ** 2
        found = np.inf
        for slope in SLOPES:
            scene = np.fft.irfft2(np.fft.rfft2(response * self.frequency**-slope) * self.leakage, s=self.shape)
            scene = scene[:, : self.shape[1] // 2 + 1].ravel()[self.places].clip(0)
            center = np.log(self.power.sum() / scene.sum())
            for step in (1.5, 0.5, 0.15):  # A grid of amplitudes, refined twice.
                amplitudes = center + step * np.arange(-3, 4)
                expected = np.exp(amplitudes)[:, None] * scene + self.noise
                values = (np.log(expected) + self.power / expected).mean(1)
                center = amplitudes[values.argmin()]
            found = min(found, float(values.min()))
        return found


def _others(kernel: Array, side: int) -> Iterator[tuple[str, Array]]:
    yield "no blur", np.ones((1, 1))
    for sigma in GAUSSIANS:
        yield f"a Gaussian of {sigma:g} px", gaussian_kernel(sigma).numpy()
    for radius in DISCS:
        yield f"a disc of radius {radius:g} px", defocus_kernel(radius).numpy()
    for scale in SCALES if min(kernel.shape) > 1 else ():
        scaled = scipy.ndimage.zoom(kernel, scale, order=1).clip(0)
        if scaled.sum() > 0 and max(scaled.shape) <= side:
            yield f"this kernel {scale:g} times as large", scaled / scaled.sum()
