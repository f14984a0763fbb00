"""A Gaussian prior with the spectrum of photographs, for images of any size: fast, for tests of unknown blurs."""

from __future__ import annotations

from functools import cache

import torch

from invdiff.operators import Blur
from invdiff.priors import Gaussian, ScoreModel
from invdiff.schedules import VP

# A file for `--prior mine.py:prior`.
CODE = "from blind_prior import AnySize\n\nprior = AnySize()\n"


@cache
def of_shape(shape):
    """Return the prior for images of a shape."""
    channels, height, width = shape
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)).clamp(min=0.5 / max(height, width))
    return Gaussian.stationary(torch.zeros(shape), (0.002 / radius**2).expand(channels, -1, -1).clone())


class AnySize(ScoreModel):
    """The same spectrum at every size. Noise that is not stationary is taken as stationary with the same power."""

    noise_kinds = frozenset(("frequency", "decimation"))
    event_shape = (3, None, None)
    schedule = VP()
    learned = True  # The recommended settings are then those of networks, which take few steps.

    def denoise(self, x_t, t):
        return of_shape(tuple(x_t.shape[1:])).denoise(x_t, t)

    def denoise_pivot(self, mu, cov):
        spectrum = of_shape(tuple(mu.shape[1:]))._values
        gain = spectrum / (spectrum + cov.frequency_levels() ** 2)
        return torch.fft.irfft2(gain * torch.fft.rfft2(mu), s=mu.shape[-2:])


def blurred(kernel, *, size=48, noise=0.01, seed=1):
    """Return a blurred draw of the prior, ``(3, size, size)`` on the 0..1 scale, whose border depends on what is beyond it."""
    side = size + kernel.shape[-1] - 1
    x = of_shape((3, side, side)).sample(1, seed=seed)
    y = Blur((3, side, side), kernel, boundary="valid", sigma_y=2 * noise).measure(x, seed=seed)
    return (y[0] / 2 + 0.5).clamp(0, 1)
