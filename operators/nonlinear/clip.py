"""A sensor that saturates: declipping, and high dynamic range from one exposure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ..core.noise import Noise, noise_of
from ..core.operator import Operator
from ..core.validation import event_shape

__all__ = ["Clip"]


class Clip(Operator):
    r"""Amplification and saturation: values beyond a range are measured as its end.

    .. math:: y = \min(\max(g\, x, l), h) + n, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    Noise comes after the saturation, so that ``y`` may lie a little outside :math:`[l, h]`.

    The derivative is the true one: :math:`g` within the range and 0 outside. So methods that follow the gradient of the
    likelihood get no push where their estimate is saturated: rightly where ``y`` is saturated too, as any brighter value
    explains it as well; but where ``y`` is not, a pixel that has strayed beyond the range is brought back by the prior alone.
    Methods that start from noise of the size of the image, or that do not differentiate (particles), suffer less.

    Args:
        in_shape: Shape of one ``x``, without the batch axis.
        low: :math:`l`, in the units of ``y``.
        high: :math:`h`, likewise. For images, which span [-1, 1], a sensor that saturates at white has -1 and 1.
        gain: :math:`g > 0`. With 2, -1 and 1 the brightest and the darkest quarter of the range are lost: the measurement of
            high dynamic range reconstruction in the literature.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: Noise model, in the place of ``sigma_y``.

    Raises:
        ValueError: If ``low`` is not below ``high``, or ``gain`` is not positive and finite.

    References:
        Mardani et al., A Variational Perspective on Solving Inverse Problems with Diffusion Models, 2023,
        https://arxiv.org/abs/2305.04391
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        low: float,
        high: float,
        *,
        gain: float = 1.0,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        if not low < high:
            raise ValueError(f"Clip: low must be below high, got low={low:g} and high={high:g}.")
        if not (math.isfinite(gain) and gain > 0):
            raise ValueError(f"Clip: gain must be positive and finite, got {gain:g}.")
        self.in_shape = self.out_shape = event_shape("Clip", in_shape)
        self.low, self.high, self.gain = float(low), float(high), float(gain)
        self.noise = noise_of(sigma_y, noise)

    def forward(self, x: Tensor) -> Tensor:
        return (self.gain * x).clamp(self.low, self.high)
