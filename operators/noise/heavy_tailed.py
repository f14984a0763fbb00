r"""Heavy-tailed noise, for measurements with outliers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.random import Streams

from ..core.noise import Noise

__all__ = ["LaplaceNoise", "StudentNoise"]


class StudentNoise(Noise):
    r"""Student-t noise: Gaussian noise with a random variance for each entry. Fewer degrees of freedom give more outliers.

    .. math:: p(y | z) \propto \Big(1 + \frac{(y - z)^2}{\nu s^2}\Big)^{-(\nu + 1) / 2}, \qquad
        v = \frac{\nu s^2 + (y - z)^2}{\nu + 1}

    where :math:`v` is the variance of the Gaussian approximation: the inverse of the posterior mean of the precision of the
    entry given ``y``.

    Args:
        scale: :math:`s > 0`, in the units of ``y``. The attribute ``sigma`` has the same value.
        dof: Degrees of freedom :math:`\nu > 0`.

    Raises:
        ValueError: If one of the two is not positive and finite.
    """

    heavy_tailed = True

    def __init__(self, scale: float, *, dof: float) -> None:
        if not (math.isfinite(scale) and scale > 0 and math.isfinite(dof) and dof > 0):
            raise ValueError(f"StudentNoise: expected scale > 0 and dof > 0, both finite, got {scale} and {dof}.")
        self.scale, self.dof, self.sigma = float(scale), float(dof), float(scale)

    def add(self, clean: Tensor, streams: Streams) -> Tensor:
        # n sqrt(nu / chi^2_nu), with chi^2_nu from the inverse of its distribution function at a uniform number.
        from scipy.special import chdtri, ndtr

        normal, other = (streams.normal(clean.shape[1:], dtype=clean.dtype) for _ in range(2))
        chi2 = torch.from_numpy(chdtri(self.dof, ndtr(other.double().cpu().numpy()))).to(clean)
        return clean + self.scale * normal * (self.dof / chi2).sqrt()

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        nu = self.dof
        constant = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(math.pi * nu) - math.log(self.scale)
        return constant - (nu + 1) / 2 * torch.log1p(((y - clean) / self.scale).square() / nu)

    def variance(self, y: Tensor, clean: Tensor) -> Tensor:
        return (self.dof * self.scale**2 + (y - clean).square()) / (self.dof + 1)

    def __repr__(self) -> str:
        return f"StudentNoise({self.scale:g}, dof={self.dof:g})"


class LaplaceNoise(Noise):
    r"""Laplace noise, whose negative log density is an L1 norm.

    .. math:: p(y | z) = \frac{1}{2 b} e^{-|y - z| / b}, \qquad v = b\, |y - z|

    where :math:`v` is the variance of the Gaussian approximation, clamped to at least :math:`b^2 / 100`.

    Args:
        scale: :math:`b > 0`, in the units of ``y``. The standard deviation is :math:`\sqrt 2\, b`.

    Raises:
        ValueError: If the scale is not positive and finite.
    """

    heavy_tailed = True

    def __init__(self, scale: float) -> None:
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"LaplaceNoise: expected a finite scale > 0, got {scale}.")
        self.scale, self.sigma = float(scale), float(scale)

    def add(self, clean: Tensor, streams: Streams) -> Tensor:
        # The difference of two exponential variables, each half the sum of two squared normal ones.
        a, b, c, d = (streams.normal(clean.shape[1:], dtype=clean.dtype) for _ in range(4))
        return clean + self.scale * (a**2 + b**2 - c**2 - d**2) / 2

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        return -(y - clean).abs() / self.scale - math.log(2 * self.scale)

    def variance(self, y: Tensor, clean: Tensor) -> Tensor:
        return self.scale * (y - clean).abs().clamp(min=0.01 * self.scale)

    def __repr__(self) -> str:
        return f"LaplaceNoise({self.scale:g})"
