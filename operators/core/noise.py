r"""The interface of noise models, and independent Gaussian noise.

A noise model is the distribution :math:`p(y | z)` of a measurement given its noiseless value :math:`z = A(x)`. Measurement
noise is drawn only by these models.
"""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from invdiff.movable import Movable
from invdiff.random import Streams

__all__ = ["GaussianNoise", "Noise", "entries", "noise_of"]


class Noise(Movable, ABC):
    r"""The distribution :math:`p(y | z)` of a measurement ``y`` whose noiseless value is :math:`z = A(x)`.

    Attributes:
        sigma: Standard deviation in the units of ``y``; the smallest one where it differs between entries; for heavy-tailed
            noise, its scale parameter. It determines where the reverse diffusion stops. 0 means exact data.
        gaussian: True if it is :math:`\mathcal{N}(z, \Sigma)` with a :math:`\Sigma` that does not depend on ``z``.
        white: True if it is :math:`\mathcal{N}(z, \sigma^2 I)`, as most published methods assume.
        heavy_tailed: True if :meth:`variance` depends on the distance between ``y`` and ``clean``.
    """

    sigma: float
    gaussian: bool = False
    white: bool = False
    heavy_tailed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the per-entry parameters, which must broadcast to one ``y``; ``()``: the same for all entries."""
        return ()

    def check(self, owner: str, out_shape: tuple[int, ...]) -> None:
        """Raise ``ValueError`` if this cannot be the noise of measurements of shape ``(B, *out_shape)``."""
        if len(self.shape) > len(out_shape) or any(
            ours not in (1, side) for ours, side in zip(self.shape[::-1], out_shape[::-1], strict=False)
        ):
            batched = " Leave out the batch axis." if self.shape[1:] == out_shape else ""
            raise ValueError(
                f"{owner}: {self!r} does not broadcast to measurements of shape {out_shape} (without batch).{batched}"
            )

    @abstractmethod
    def add(self, clean: Tensor, streams: Streams) -> Tensor:
        """Return a noisy measurement of ``clean``, ``(B, *event)``; each item draws its noise from its own stream."""

    @abstractmethod
    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        r"""Return :math:`\log p(y | z)` per entry, shaped like ``y``, differentiable in ``clean``.

        The sum over the entries is the logarithm of a density, or of a probability where ``y`` is discrete.
        """

    @abstractmethod
    def variance(self, y: Tensor, clean: Tensor) -> Tensor:
        r"""Return the variance :math:`v` of a Gaussian approximation of :math:`p(y | z)` at ``clean``, broadcastable to ``y``.

        The approximation has the exact gradient there, :math:`(y - z) / v = \nabla_z \log p(y | z)`, where the density has
        one. For photon noise this is the variance given ``clean``; for heavy-tailed noise it is larger where ``y`` is an
        outlier.
        """

    def squared_misfit(self, y: Tensor, clean: Tensor) -> Tensor:
        r"""Return :math:`(y - z)^2 / v` per entry, or what else has the expectation 1 at the true :math:`z`."""
        return (y - clean).square() / self.variance(y, clean)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.sigma:g})"

    def whiten(self, v: Tensor) -> Tensor:
        r"""Return :math:`W v` with :math:`W \Sigma W^\top = I`, for Gaussian noise that is not white."""
        raise NotImplementedError(f"{type(self).__name__} cannot be whitened: its covariance depends on the measurement.")

    def whiten_adjoint(self, v: Tensor) -> Tensor:
        r"""Return :math:`W^\top v`."""
        raise NotImplementedError(f"{type(self).__name__} cannot be whitened: its covariance depends on the measurement.")


class GaussianNoise(Noise):
    r"""Independent Gaussian noise: :math:`y_i = z_i + \sigma_i n_i`, :math:`n_i \sim \mathcal{N}(0, 1)`.

    Args:
        sigma: Standard deviation in the units of ``y``: a number :math:`\ge 0` for all entries, 0 for exact data; or a
            tensor of positive numbers, one for each entry, that broadcasts to ``(*out_shape)``.

    Raises:
        TypeError: If ``sigma`` is not real.
        ValueError: If a standard deviation is negative or not finite, or one of a tensor is 0.
    """

    gaussian = True
    deviations: Tensor | None = None

    def __init__(self, sigma: float | Tensor | np.ndarray) -> None:
        sigma = entries("GaussianNoise", "sigma", sigma)
        if isinstance(sigma, Tensor):
            if not (sigma.isfinite() & (sigma >= torch.finfo(torch.float32).tiny)).all():
                raise ValueError(
                    "GaussianNoise: a tensor of standard deviations must be positive and finite, "
                    f"got {float(sigma.min()):g} to {float(sigma.max()):g}. For exact data give the number 0."
                )
            self.sigma, self.deviations = float(sigma.min()), sigma
            return
        if not (math.isfinite(sigma) and sigma >= 0):
            raise ValueError(f"GaussianNoise: sigma must be a finite number of at least 0, got {sigma}.")
        self.sigma, self.white = float(sigma), True

    @property
    def shape(self) -> tuple[int, ...]:
        return () if self.deviations is None else tuple(self.deviations.shape)

    @classmethod
    def estimate(cls, y: Tensor, *, known: Tensor | None = None) -> Self:
        r"""Estimate the noise level of pictures ``y``, ``(B, C, H, W)``, that span [-1, 1]: one level for all of them.

        The estimate is the median of :math:`|w| / 0.6745` over the finest diagonal wavelet coefficients :math:`w` (Daubechies,
        order 2) in the smoothest quarter of a picture, averaged over channels and items. Constant areas, saturated and unknown
        pixels are left out. The estimate is wrong if pixels were mixed after the noise was added, for example by a blur.

        Args:
            y: The pictures.
            known: True at measured pixels, broadcastable to ``y``. Default: all.

        Raises:
            ValueError: If ``y`` is not finite where it is known; or if the level cannot be determined: too few pixels show the
                noise, JPEG compression removed a part of it, or fine texture hides it.

        References:
            Donoho & Johnstone, Ideal spatial adaptation by wavelet shrinkage, 1994, https://doi.org/10.1093/biomet/81.3.425
        """
        from .noise_level import noise_level

        there = torch.ones_like(y, dtype=torch.bool) if known is None else known.broadcast_to(y.shape)
        if y.ndim != 4 or not y.numel() or not y[there].isfinite().all():
            raise ValueError(
                "GaussianNoise: expected finite pictures (B, C, H, W) to estimate their noise, got "
                f"shape {tuple(y.shape)}{', with nan or inf' if y.numel() and y.ndim == 4 else ''}."
            )
        pictures = torch.where(there, y.detach(), torch.zeros_like(y)).flatten(0, 1).double().cpu().numpy()
        try:
            return cls(noise_level(pictures, there.flatten(0, 1).cpu().numpy()).sigma)
        except ValueError as error:
            raise ValueError(f"GaussianNoise: no noise level for pictures of shape {tuple(y.shape)}: {error}.") from error

    def add(self, clean: Tensor, streams: Streams) -> Tensor:
        return clean + self._deviations(clean) * streams.normal(clean.shape[1:], dtype=clean.dtype)

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        deviations = torch.as_tensor(self._deviations(clean), dtype=clean.dtype, device=clean.device)
        return -0.5 * ((y - clean) / deviations).square() - (deviations * math.sqrt(2 * math.pi)).log()

    def variance(self, y: Tensor, clean: Tensor) -> Tensor:
        return torch.as_tensor(self._deviations(clean), dtype=clean.dtype, device=clean.device) ** 2

    def whiten(self, v: Tensor) -> Tensor:
        return v / self._deviations(v)

    def whiten_adjoint(self, v: Tensor) -> Tensor:
        return self.whiten(v)

    def _deviations(self, like: Tensor) -> Tensor | float:
        return self.sigma if self.deviations is None else self.deviations.to(like)

    def __repr__(self) -> str:
        return (
            f"GaussianNoise({self.sigma:g})"
            if self.deviations is None
            else f"GaussianNoise({tuple(self.deviations.shape)} values)"
        )


def entries(owner: str, name: str, value: Any) -> float | Tensor:
    """Return a parameter of a noise model: a number, or a real floating-point tensor of one value or more for each entry.

    Raises:
        TypeError: If ``value`` is neither a real number nor a tensor or an array of them.
        ValueError: If it is an empty tensor.
    """
    if isinstance(value, np.ndarray):  # torch accepts neither negative strides nor a foreign byte order.
        native = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("=")).reshape(value.shape)
        value = torch.as_tensor(native) if native.dtype.kind in "fiu" else native
    real = not value.is_complex() if isinstance(value, Tensor) else isinstance(value, numbers.Real)
    if not real or isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool:
        got = value.dtype if isinstance(value, Tensor | np.ndarray) else f"{type(value).__name__} {value!r}"
        raise TypeError(
            f"{owner}: {name} must be a real number, or a tensor of real numbers with one for each entry of y, got {got}."
        )
    if not isinstance(value, Tensor):
        return float(value)
    if not value.numel():
        raise ValueError(f"{owner}: {name} must not be empty, got shape {tuple(value.shape)}.")
    kept = value.detach().to(value.dtype if value.is_floating_point() else torch.float64, copy=True)
    return kept if kept.ndim else float(kept)


def noise_of(sigma_y: float, noise: Noise | None) -> Noise:
    """Return the noise model given by the arguments ``sigma_y`` and ``noise`` of an operator; only one may be given."""
    if noise is not None and not isinstance(noise, Noise):
        raise TypeError(
            f"noise must be a noise model such as GaussianNoise(0.05), got {noise!r}. Give a standard deviation as sigma_y=..."
        )
    if noise is not None and sigma_y:
        raise ValueError(f"Give sigma_y or noise, not both: got sigma_y={sigma_y:g} and noise={noise!r}.")
    return GaussianNoise(sigma_y) if noise is None else noise
