r"""Measurements without phase or sign: phase retrieval, coded diffraction, magnitudes.

The gradient of :math:`|z|` at :math:`z = 0`, where it does not exist, is defined as 0, the center of the subdifferential: torch
differentiates ``abs`` to :math:`z / |z|`, and to 0 at 0, also for complex numbers. The square root of a sum of squares would
give NaN instead, and one zero frequency would make the gradient of the whole image NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ..core.noise import Noise, noise_of
from ..core.operator import Operator
from ..core.seeds import seeded
from ..core.validation import event_shape, image_shape
from .fourier import CenteredFourier

__all__ = ["CodedDiffraction", "Magnitude", "PhaseRetrieval"]


class PhaseRetrieval(Operator):
    r"""Magnitudes of the Fourier transform of the zero-padded image: the operator of Fourier phase retrieval.

    .. math:: y_c = |F P x_c|^q + n, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    :math:`P` pads the image with ``int(oversampling / 8 * side)`` zeros on each side, and :math:`F` is the unitary Fourier
    transform of the padded image, so that :math:`\sum y^2 = \sum x^2` without noise for :math:`q = 1`. Frequency 0 is in the
    middle of ``y``, at ``(H' // 2, W' // 2)``.

    This is the convention of DPS: an ``oversampling`` of 2.0 makes the sides 1.5 times as long, 4.0 twice as long. The operator
    is applied to the image in [-1, 1], where mid-gray is 0; DAPS shifts the image to [0, 1] first.

    The image, its negative, its rotation by 180 degrees, and its shifts within the padding have the same measurement. All
    frequencies are measured: the magnitudes of a real image at :math:`\pm k` are equal, but their noise is independent.

    Args:
        in_shape: Image shape ``(C, H, W)``, without the batch axis.
        oversampling: Amount of zero padding, at least 0, see above; 0: no padding.
        power: :math:`q`, 1 for magnitudes, 2 for intensities.
        sigma_y: Noise standard deviation, in the units of ``y``, which are those of ``x`` for ``power`` 1. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        ValueError: If ``oversampling`` is negative or not finite, or ``power`` neither 1 nor 2.

    References:
        Fienup, Phase retrieval algorithms: a comparison, 1982, https://doi.org/10.1364/AO.21.002758
        Chung et al., Diffusion Posterior Sampling, 2023, https://arxiv.org/abs/2209.14687
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        *,
        oversampling: float,
        power: int = 1,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        channels, height, width = self.in_shape = image_shape("PhaseRetrieval", in_shape)
        if not (math.isfinite(oversampling) and oversampling >= 0):
            raise ValueError(f"PhaseRetrieval: oversampling must be a finite number of at least 0, got {oversampling}.")
        self.oversampling, self.power = oversampling, _checked_power("PhaseRetrieval", power)
        self.padded = tuple(side + 2 * int(oversampling / 8 * side) for side in (height, width))
        self.out_shape, self.noise = (channels, *self.padded), noise_of(sigma_y, noise)

    def forward(self, x: Tensor) -> Tensor:
        # Magnitudes do not depend on the position of the image within the padding.
        half = _modulus(torch.fft.rfft2(x, s=self.padded, norm="ortho"), self.power)
        height, width = self.padded
        right = half[..., : (width + 1) // 2].roll(height // 2, -2)
        left = half[..., 1 : width // 2 + 1].flip((-2, -1)).roll(height // 2 + 1, -2)  # Equal at opposite frequencies.
        return torch.cat([left, right], -1)


class CodedDiffraction(Operator):
    r"""Magnitudes of the Fourier transform of the image multiplied by several known masks.

    .. math:: y_{kc} = |F (d_k \odot x_c)|^q + n, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    with :math:`F` the unitary Fourier transform, frequency 0 in the middle of ``y``. Measurements are ``(B, K, C, H, W)``.

    Args:
        in_shape: Image shape ``(C, H, W)``, without the batch axis.
        masks: :math:`d_k`, complex or real, shape ``(K, H, W)``. See ``CodedDiffraction.random``.
        power: :math:`q`, 1 for magnitudes, 2 for intensities.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Attributes:
        masks: Complex128, ``(K, H, W)``.

    Raises:
        ValueError: If the masks have another shape, are not finite or are 0 everywhere, or ``power`` is neither 1 nor 2.

    References:
        Candes, Li & Soltanolkotabi, Phase Retrieval from Coded Diffraction Patterns, 2015, https://arxiv.org/abs/1310.3240
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        masks: Tensor | np.ndarray,
        *,
        power: int = 1,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        channels, height, width = self.in_shape = image_shape("CodedDiffraction", in_shape)
        given = torch.as_tensor(masks)
        if given.ndim != 3 or not len(given) or given.shape[1:] != (height, width):
            raise ValueError(
                f"CodedDiffraction: masks must have shape (K, {height}, {width}) for in_shape {self.in_shape}, "
                f"got {tuple(given.shape)}."
            )
        self.masks = given.to(torch.complex128, copy=True)
        if not torch.view_as_real(self.masks).isfinite().all() or not self.masks.any():
            raise ValueError("CodedDiffraction: masks must be finite and not 0 everywhere.")
        # The phase factors after the transform have magnitude 1 and can be omitted.
        self.before = CenteredFourier(height, width, image_weights=self.masks.unsqueeze(1)).before
        self.power, self.noise = _checked_power("CodedDiffraction", power), noise_of(sigma_y, noise)
        self.out_shape = len(self.masks), channels, height, width

    @classmethod
    def random(
        cls,
        in_shape: Sequence[int],
        count: int,
        *,
        seed: int,
        power: int = 1,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> Self:
        r"""Return the operator with ``count`` masks of magnitude 1, whose phases are independent and uniform.

        Args:
            in_shape: Image shape ``(C, H, W)``, without the batch axis.
            count: :math:`K`, the number of masks, at least 1.
            seed: Seed of the masks, any non-negative integer below 2^63.
            power: 1 for magnitudes, 2 for intensities.
            sigma_y: Noise standard deviation. Zero: no noise.
            noise: A noise model, instead of ``sigma_y``.

        Raises:
            TypeError: If ``seed`` is not an integer.
            ValueError: If ``count`` is not positive.
        """
        _, height, width = image_shape("CodedDiffraction", in_shape)
        if count < 1:
            raise ValueError(f"CodedDiffraction: count must be a positive number of masks, got {count}.")
        generator = seeded("CodedDiffraction", seed)
        turns = torch.rand(count, height, width, generator=generator, dtype=torch.float64)
        masks = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)
        return cls(in_shape, masks, power=power, sigma_y=sigma_y, noise=noise)

    def forward(self, x: Tensor) -> Tensor:
        images = self.before.to(x.device, x.dtype.to_complex()) * x.unsqueeze(1)
        return _modulus(torch.fft.fft2(images, norm="ortho"), self.power)


class Magnitude(Operator):
    r"""The magnitude of every entry, or its square, so that the sign is lost.

    .. math:: y = |x|^q + n, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    After a linear operator, ``Magnitude(...) @ A``, this is generalized phase retrieval.

    Args:
        in_shape: Shape of one ``x``, without the batch axis; any number of axes.
        power: :math:`q`, 1 for magnitudes, 2 for intensities.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        ValueError: If ``power`` is neither 1 nor 2.
    """

    def __init__(self, in_shape: Sequence[int], *, power: int = 1, sigma_y: float = 0.0, noise: Noise | None = None) -> None:
        self.in_shape = self.out_shape = event_shape("Magnitude", in_shape)
        self.power, self.noise = _checked_power("Magnitude", power), noise_of(sigma_y, noise)

    def forward(self, x: Tensor) -> Tensor:
        return x.abs() if self.power == 1 else x**2


def _modulus(z: Tensor, power: int) -> Tensor:
    return z.abs() if power == 1 else z.real**2 + z.imag**2


def _checked_power(owner: str, power: int) -> int:
    if power not in (1, 2):
        raise ValueError(f"{owner}: power must be 1 (magnitude) or 2 (intensity), got {power!r}.")
    return int(power)
