"""A tone curve: images whose values are a power of the light, or the other way round."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.noise import Noise, noise_of
from ..core.operator import Operator
from ..core.validation import event_shape

__all__ = ["Gamma"]

TOE = 1 / 512  # Half a gray level of 8 bits.


class Gamma(Operator):
    r"""Gamma correction, of images that span [-1, 1] to such images.

    .. math:: y = 2\, g\Big(\frac{x + 1}{2}\Big) - 1 + n, \qquad g(u) = u^\gamma \ \text{for}\ u \ge \delta, \quad
        n \sim \mathcal{N}(0, \sigma_y^2 I)

    Exponents below 1 have no derivative at black. There :math:`g` bends into the origin below :math:`\delta = 1/512`, half a
    gray level of 8 bits, with one value and one slope at :math:`\delta`:

    .. math:: g(u) = \delta^\gamma \left[ (2 - \gamma) \frac{u}{\delta} - (1 - \gamma) \frac{u^2}{\delta^2} \right],
        \qquad 0 \le u < \delta,\ \gamma < 1

    so that its slope is nowhere above :math:`(2 - \gamma)\, \delta^{\gamma - 1}` (46 for 1/2.2). Values beyond black, which no
    image has but estimates of one do, continue it as an odd function, :math:`g(-u) = -g(u)`; values beyond white, as a power.
    The curve rises everywhere and so does its derivative exist everywhere: no pixel is out of reach of a gradient, although
    exponents above 1 are flat at black.

    Args:
        in_shape: Shape of one ``x``, without the batch axis.
        exponent: :math:`\gamma > 0`. Above 1 makes darker (2.2 or so turns a photograph into light), below 1 brighter.
        sigma_y: Noise standard deviation, in the units of ``y``, an image that spans [-1, 1]. Zero: no noise.
        noise: Noise model, in the place of ``sigma_y``.

    Raises:
        ValueError: If the exponent is not positive and finite.
    """

    def __init__(self, in_shape: Sequence[int], exponent: float, *, sigma_y: float = 0.0, noise: Noise | None = None) -> None:
        if not (math.isfinite(exponent) and exponent > 0):
            raise ValueError(f"Gamma: exponent must be positive and finite, got {exponent:g}.")
        self.in_shape = self.out_shape = event_shape("Gamma", in_shape)
        self.exponent, self.noise = float(exponent), noise_of(sigma_y, noise)

    def forward(self, x: Tensor) -> Tensor:
        u = (x + 1) / 2
        size, gamma = u.abs(), self.exponent
        if gamma > 1:
            return 2 * u.sign() * size**gamma - 1
        # The power is kept away from 0 also where it is not taken: its derivative there would be infinite times zero.
        power, small = size.clamp(min=TOE) ** gamma, u / TOE
        toe = TOE**gamma * small * ((2 - gamma) - (1 - gamma) * small.abs())
        return 2 * torch.where(size < TOE, toe, u.sign() * power) - 1
