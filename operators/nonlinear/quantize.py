"""Rounding to a few levels: the measurement of dequantization and of bit depth enhancement."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

from torch import Tensor

from ..core.noise import Noise, noise_of
from ..core.operator import Operator
from ..core.validation import event_shape

__all__ = ["Quantize"]


class Quantize(Operator):
    r"""The nearest of equally spaced levels.

    .. math:: y = l + h \min\!\Big(\max\!\Big(\operatorname{round} \frac{x - l}{h}, 0\Big), L - 1\Big) + n, \qquad
        h = \frac{\text{high} - \text{low}}{L - 1}, \quad n \sim \mathcal{N}(0, \sigma_y^2 I)

    Values beyond the levels are measured as the outermost ones; halves are rounded to even multiples.

    The derivative is zero almost everywhere, of no use to anyone. In its place stands the identity, beyond the levels too
    (straight-through), and ``surrogate`` says so: a gradient of the likelihood built on it pulls towards ``y``, but belongs to
    no likelihood, and is zero as soon as an estimate falls into the right cells.

    That is one model of a quantized image. The other is linear: ``Identity(in_shape, noise=RoundingNoise(step, offset=low))``
    says that ``y`` is ``x`` with an error uniform over one step, of standard deviation :math:`h / \sqrt{12}`. It holds where
    the steps are fine against the image, and methods for linear measurements can use it.

    Args:
        in_shape: Shape of one ``x``, without the batch axis.
        levels: Their number :math:`L \ge 2`: 2 to the number of bits.
        low: The lowest level :math:`l`, in the units of ``x``. -1 for images, which span [-1, 1].
        high: The highest one, likewise. 1 for images.
        sigma_y: Standard deviation of noise added after rounding, in the units of ``y``. Zero: no noise. Methods that divide
            by it need one: a third of a step or so stands for the rounding.
        noise: Noise model, in the place of ``sigma_y``.

    Attributes:
        step: Distance :math:`h` between levels.

    Raises:
        TypeError: If ``levels`` is not an integer.
        ValueError: If it is below 2, or ``low`` is not below ``high``, or one of these is not finite.

    References:
        Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons, 2013, https://arxiv.org/abs/1308.3432
    """

    surrogate = True

    def __init__(
        self,
        in_shape: Sequence[int],
        levels: int,
        *,
        low: float,
        high: float,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        try:
            self.levels = operator.index(levels)
        except TypeError:
            raise TypeError(f"Quantize: levels must be an integer, got {levels!r}.") from None
        if self.levels < 2:
            raise ValueError(f"Quantize: levels must be at least 2, got {levels}. For b bits that is 2**b.")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"Quantize: low must be below high and both finite, got low={low:g} and high={high:g}.")
        self.in_shape = self.out_shape = event_shape("Quantize", in_shape)
        self.low, self.high, self.step = float(low), float(high), (high - low) / (self.levels - 1)
        self.noise = noise_of(sigma_y, noise)

    def _summary(self) -> Sequence[str]:
        return (f"{self.levels} levels",)

    def forward(self, x: Tensor) -> Tensor:
        place = (x.detach() - self.low) / self.step
        # The second part is exactly zero, and has the derivative of the identity.
        return place.clamp(0, self.levels - 1).round() * self.step + self.low + (x - x.detach())
