"""A change of scale and offset, between the range of images and the units of an instrument."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator, Operator
from ..core.validation import event_shape
from .identity import Identity

__all__ = ["Affine"]


class Affine(Operator):
    r"""Every entry times a factor, plus an offset.

    .. math:: y = a\, x + b + n, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    Images span [-1, 1], while an instrument measures light, density or charge, which is 0 where it is dark:
    ``A @ Affine(shape, 0.5, 0.5)`` applies :math:`A` to the image on the scale from 0 to 1. If :math:`A` is linear, it is
    better to subtract the constant :math:`A(b)` from the measurement, so that the problem stays linear.

    Args:
        in_shape: Shape of one ``x``, without the batch axis.
        factor: :math:`a`, not zero.
        offset: :math:`b`.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        ValueError: If ``factor`` or ``offset`` is not finite, or ``factor`` is zero.
    """

    def __init__(
        self, in_shape: Sequence[int], factor: float, offset: float, *, sigma_y: float = 0.0, noise: Noise | None = None
    ) -> None:
        if not (math.isfinite(factor) and factor != 0 and math.isfinite(offset)):
            raise ValueError(f"Affine: expected a finite factor other than 0 and a finite offset, got {factor} and {offset}.")
        self.in_shape = self.out_shape = event_shape("Affine", in_shape)
        self.factor, self.offset, self.noise = float(factor), float(offset), noise_of(sigma_y, noise)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x + self.offset

    def jacobian(self, x: Tensor) -> LinearOperator:
        return self.factor * Identity(self.in_shape)
