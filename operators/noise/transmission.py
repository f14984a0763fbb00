r"""Photon counting behind an absorber, in terms of the line integrals of its attenuation."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from invdiff.random import Streams

from ..core.noise import Noise, entries

__all__ = ["TransmissionNoise"]

SMALL = 1.0  # Photons beyond the background from which on the logarithm is taken as it is.
FEWEST = 1e-6  # Smallest expected number of photons, as of PoissonNoise.
LARGEST = 1e6  # Largest light relative to that without an absorber; estimates are negative by rounding or at the start only.


class TransmissionNoise(Noise):
    r"""Poisson counts behind an absorber, for operators that measure line integrals: transmission tomography.

    .. math:: k \sim \mathrm{Poisson}(\lambda), \qquad \lambda = I e^{-c z} + b, \qquad y = -\frac{1}{c} \log \frac{u}{I},
        \qquad u = k - b

    The counts :math:`k` are stored as the line integral :math:`y` that they would have without noise, so that the operator
    stays linear. Where :math:`u < 1`, down to no photon at all, :math:`u` is replaced by :math:`e^{u - 1} > 0`, which
    continues it smoothly: no count is lost, and :math:`p(y | z)` is the probability of :math:`k`, whatever it is.

    The variance of the Gaussian approximation is that with the exact gradient,

    .. math:: v = \frac{y - z}{\partial_z \log p} = \frac{(y - z)\, \lambda}{c\, I e^{-c z} (\lambda - k)}

    which for :math:`b = 0` is the inverse of the logarithmic mean of the counts and of their expectation, over :math:`c^2`. At
    :math:`z = y` it is the variance of the logarithm, :math:`k / (c\, u)^2`, as of least squares with weights; unlike there,
    few photons do not bias the estimate. Where :math:`y` is finite only by the continuation and :math:`z` exceeds it, the
    inverse of the Fisher information is returned.

    Args:
        flat: :math:`I > 0`, the expected number of photons at :math:`z = 0`: a number, or a tensor with one for each entry,
            that broadcasts to ``(*out_shape)``.
        background: :math:`b \ge 0`, the expected number of counts without light, likewise. Readout noise of variance
            :math:`\sigma^2` in squared photons counts as a background of :math:`\sigma^2` (see
            :class:`~invdiff.operators.PoissonGaussianNoise`), if its mean is subtracted before.
        scale: :math:`c > 0`, the exponent per unit of :math:`z`.

    Raises:
        TypeError: If a value is not real.
        ValueError: If a value is out of range, or the shapes do not fit each other.

    References:
        Elbakri & Fessler, Statistical Image Reconstruction for Polyenergetic X-Ray Computed Tomography, 2002,
        https://doi.org/10.1109/42.993128 (the likelihood, for one energy)
    """

    def __init__(
        self, flat: float | Tensor | np.ndarray, *, background: float | Tensor | np.ndarray = 0.0, scale: float = 1.0
    ) -> None:
        given = (entries("TransmissionNoise", name, value) for name, value in (("flat", flat), ("background", background)))
        self.flat, self.background = (torch.as_tensor(value, dtype=torch.float64) for value in given)
        positive = bool((self.flat > 0).all() and self.flat.isfinite().all() and self.background.isfinite().all())
        if not (positive and (self.background >= 0).all() and math.isfinite(scale) and scale > 0):
            raise ValueError(
                "TransmissionNoise: expected flat > 0, background >= 0 and scale > 0, all finite, got "
                f"{float(self.flat.min()):g}, {float(self.background.min()):g} and {scale:g} at least."
            )
        self.scale = float(scale)
        try:
            expected = (self.flat + self.background).sqrt() / self.flat
        except RuntimeError:
            raise ValueError(
                f"TransmissionNoise: flat has shape {tuple(self.flat.shape)} and background {tuple(self.background.shape)}, "
                "expected shapes that broadcast to that of the measurement."
            ) from None
        self.sigma = float(expected.min()) / self.scale  # Where nothing absorbs.

    @property
    def shape(self) -> tuple[int, ...]:
        return np.broadcast_shapes(tuple(self.flat.shape), tuple(self.background.shape))

    def integrals(self, counts: Tensor) -> Tensor:
        """Return the line integrals :math:`y` that stand for counts :math:`k`."""
        u = counts - self.background.to(counts)
        small = u < SMALL
        log_u = torch.where(small, u - SMALL, torch.where(small, SMALL, u).log())
        return (self.flat.to(counts).log() - log_u) / self.scale

    def counts(self, y: Tensor) -> Tensor:
        """Return the counts :math:`k` for which ``y`` stands: the inverse of :meth:`integrals`."""
        log_u = self.flat.to(y).log() - self.scale * y
        return torch.where(log_u < 0, SMALL + log_u, log_u.clamp(min=0).exp()) + self.background.to(y)

    def add(self, clean: Tensor, streams: Streams) -> Tensor:
        rates = self._light(clean) + self.background.to(clean)
        counts = torch.stack([torch.poisson(rate, generator=g) for rate, g in zip(rates, streams.generators, strict=True)])
        return self.integrals(counts)

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        counts = self.counts(y).clamp(min=0)
        rates = self._light(clean) + self.background.to(clean)
        return torch.xlogy(counts, rates) - rates - torch.lgamma(counts + 1)

    def variance(self, y: Tensor, clean: Tensor) -> Tensor:
        light, background = self._light(clean), self.background.to(clean)
        gap = self.scale * (y - clean)
        log_u = self.flat.to(y).log() - self.scale * y
        # lambda - k = light - u, whose digits cancel if the two are close: then light (1 - exp(-gap)).
        near = gap.abs() < 1
        close = torch.where(near & (gap != 0), gap, 1)
        close = torch.where(gap == 0, 1, close / -torch.expm1(-close)) / light
        plain = torch.where(near, close, gap / torch.where(near, 1, light - log_u.exp()))
        excess = light - SMALL - log_u  # where u is continued
        continued = torch.where((gap > 0) & (excess > 0), gap / torch.where(excess > 0, excess, 1), 1 / light)
        return torch.where(log_u < 0, continued, plain) * (1 + background / light) / self.scale**2

    def squared_misfit(self, y: Tensor, clean: Tensor) -> Tensor:
        rates = self._light(clean) + self.background.to(clean)
        return (self.counts(y) - rates).square() / rates

    def _light(self, clean: Tensor) -> Tensor:
        flat = self.flat.to(clean)
        return (flat * (-self.scale * clean).clamp(max=math.log(LARGEST)).exp()).clamp(min=FEWEST)

    def __repr__(self) -> str:
        flat, background = (f"{float(v):g}" if not v.ndim else f"{tuple(v.shape)} values" for v in (self.flat, self.background))
        return f"TransmissionNoise({flat}, background={background}, scale={self.scale:g})"
