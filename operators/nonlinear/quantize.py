"""Quantization to a few levels, for dequantization and bit depth enhancement."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

from torch import Tensor

from ..core.autograd import with_derivative
from ..core.noise import Noise, noise_of
from ..core.operator import Operator
from ..core.validation import event_shape

__all__ = ["Quantize"]


class Quantize(Operator):
    r"""Rounding to the nearest of equally spaced levels.

    .. math:: y = l + h \min\!\Big(\max\!\Big(\operatorname{round} \frac{x - l}{h}, 0\Big), L - 1\Big) + n, \qquad
        h = \frac{\text{high} - \text{low}}{L - 1}, \quad n \sim \mathcal{N}(0, \sigma_y^2 I)

    Values outside the levels are clipped to the outermost ones. Values halfway between two levels are rounded to the level with
    the even index, counted from 0 at :math:`l`.

    The true derivative is zero almost everywhere. Automatic differentiation returns the identity instead, also outside the
    levels (straight-through estimator), and ``surrogate`` is true. A gradient built on it moves the estimate toward ``y``, but
    it is not the gradient of any likelihood, and it vanishes as soon as the estimate falls into the right quantization cells.

    There is also a linear model of a quantized image: ``Identity(in_shape, noise=RoundingNoise(step, offset=low))`` models
    ``y`` as ``x`` with an error that is uniform over one step, with standard deviation :math:`h / \sqrt{12}`. It is valid if
    the steps are small compared to the variations of the image, and methods for linear operators can use it.

    Args:
        in_shape: Shape of one ``x``, without the batch axis.
        levels: Number of levels :math:`L \ge 2`, for example 2 to the power of the number of bits.
        low: The lowest level :math:`l`, in the units of ``x``. -1 for images, which span [-1, 1].
        high: The highest level, in the units of ``x``. 1 for images.
        sigma_y: Standard deviation of noise added after rounding, in the units of ``y``. Zero: no noise. Methods that divide
            by it need a positive value: about a third of a step represents the rounding.
        noise: A noise model, instead of ``sigma_y``.

    Attributes:
        step: Distance :math:`h` between levels.

    Raises:
        TypeError: If ``levels`` is not an integer.
        ValueError: If ``levels`` is below 2, if ``low`` is not below ``high``, or if one of these is not finite.

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
            raise ValueError(f"Quantize: levels must be at least 2, got {levels}. For b bits give 2**b.")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"Quantize: low must be below high and both finite, got low={low:g} and high={high:g}.")
        self.in_shape = self.out_shape = event_shape("Quantize", in_shape)
        self.low, self.high, self.step = float(low), float(high), (high - low) / (self.levels - 1)
        self.noise = noise_of(sigma_y, noise)

    def _summary(self) -> Sequence[str]:
        return (f"{self.levels} levels",)

    def forward(self, x: Tensor) -> Tensor:
        return with_derivative(x, self._round, lambda v, x, y: v)

    def _round(self, x: Tensor) -> Tensor:
        return (x - self.low).div_(self.step).clamp_(0, self.levels - 1).round_().mul_(self.step).add_(self.low)
