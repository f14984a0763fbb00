"""Gamma correction: a power law between image values and light intensity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.autograd import with_derivative
from ..core.noise import Noise, noise_of
from ..core.operator import Operator
from ..core.validation import event_shape

__all__ = ["Gamma"]

TOE = 1 / 512  # Half a gray level at 8 bits.


class Gamma(Operator):
    r"""Gamma correction of images that span [-1, 1], before and after.

    .. math:: y = 2\, g\Big(\frac{x + 1}{2}\Big) - 1 + n, \qquad g(u) = u^\gamma \ \text{for}\ u \ge \delta, \quad
        n \sim \mathcal{N}(0, \sigma_y^2 I)

    For exponents below 1 the power has no finite derivative at black. There :math:`g` is replaced by a parabola below
    :math:`\delta = 1/512`, half a gray level at 8 bits, with the same value and slope at :math:`\delta`:

    .. math:: g(u) = \delta^\gamma \left[ (2 - \gamma) \frac{u}{\delta} - (1 - \gamma) \frac{u^2}{\delta^2} \right],
        \qquad 0 \le u < \delta,\ \gamma < 1

    so its slope is at most :math:`(2 - \gamma)\, \delta^{\gamma - 1}` (46 for 1/2.2). Below black, where estimates of an image
    may lie, the curve is continued as an odd function, :math:`g(-u) = -g(u)`; above white, as a power. The curve is increasing
    and differentiable everywhere, so a gradient can move every pixel, although the slope at black is 0 for exponents above 1.

    Args:
        in_shape: Shape of one ``x``, without the batch axis.
        exponent: :math:`\gamma > 0`. Values above 1 darken the image (about 2.2 converts a photograph to linear light), values
            below 1 brighten it.
        sigma_y: Noise standard deviation, in the units of ``y``, an image that spans [-1, 1]. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        ValueError: If the exponent is not positive and finite.
    """

    def __init__(self, in_shape: Sequence[int], exponent: float, *, sigma_y: float = 0.0, noise: Noise | None = None) -> None:
        if not (math.isfinite(exponent) and exponent > 0):
            raise ValueError(f"Gamma: exponent must be positive and finite, got {exponent:g}.")
        self.in_shape = self.out_shape = event_shape("Gamma", in_shape)
        self.exponent, self.noise = float(exponent), noise_of(sigma_y, noise)

    def forward(self, x: Tensor) -> Tensor:
        return with_derivative(x + 1, self._curve, self._times_slope) - 1

    # In terms of v = 2 u and w = 2 g(u), to save passes over the image: w = c v^gamma from black on or, for exponents below 1,
    # from v = 2 delta on. There the two pieces are joined by sums of clamped values, several times faster than torch.where.

    def _curve(self, v: Tensor) -> Tensor:
        gamma, size = self.exponent, v.abs()
        scale = 2.0 ** (1 - gamma)
        if gamma > 1:
            return size.pow_(gamma).mul_(scale).copysign_(v)
        place = (size / (2 * TOE)).clamp_(max=1)  # in the toe
        toe = place * (1 - gamma)
        toe = toe.neg_().add_(2 - gamma).mul_(place).sub_(1).mul_(2 * TOE**gamma)
        return size.clamp_(min=2 * TOE).pow_(gamma).mul_(scale).add_(toe).copysign_(v)

    def _times_slope(self, t: Tensor, v: Tensor, w: Tensor) -> Tensor:
        gamma = self.exponent
        if gamma > 1:  # gamma w / v, which is 0 at black
            return t * (gamma * w / (v + torch.finfo(v.dtype).tiny))
        size = v.abs()
        power = w.abs().clamp(min=2 * TOE**gamma) / size.clamp(min=2 * TOE)
        toe = 1 - (size / (2 * TOE)).clamp(max=1)
        slope = gamma * power + 2 * (1 - gamma) * TOE ** (gamma - 1) * toe
        product: Tensor = t * slope
        return product
