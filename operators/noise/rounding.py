r"""Quantization noise: the likelihood is uniform over the interval that is rounded to ``y``."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from invdiff.random import Streams

from ..core.noise import Noise, entries

__all__ = ["RoundingNoise"]


class RoundingNoise(Noise):
    r"""Quantization: every entry of ``z`` is rounded to the nearest multiple of a step, counted from an offset.

    .. math:: y = o + h \Big\lfloor \frac{z - o}{h} + \frac12 \Big\rfloor, \qquad
        p(y | z) = 1 \text{ where } |y - z| \le \tfrac{h}{2}, \text{ else } 0, \qquad v = h^2 / 12

    The likelihood has no gradient. Its Gaussian approximation has the variance of a uniform error.

    Args:
        step: :math:`h > 0`, in the units of ``y``: 2/255 for 8-bit images. A number, or one for each entry, broadcastable to
            ``(*out_shape)``.
        offset: :math:`o`, one of the values that ``y`` can take: -1 for images. A number, or one for each entry, broadcastable
            to ``(*out_shape)``.

    Raises:
        ValueError: If a step is not positive, or a step or an offset is not finite.
    """

    def __init__(self, step: float | Tensor | np.ndarray, *, offset: float | Tensor | np.ndarray) -> None:
        self.step, self.offset = entries("RoundingNoise", "step", step), entries("RoundingNoise", "offset", offset)
        steps, offsets = (torch.as_tensor(value, dtype=torch.float64) for value in (self.step, self.offset))
        if not ((steps.isfinite() & (steps > 0)).all() and offsets.isfinite().all()):
            raise ValueError(
                f"RoundingNoise: expected a finite step > 0 and a finite offset, got {_shown(self.step)} and "
                f"{_shown(self.offset)}."
            )
        self.sigma = float(steps.min()) / math.sqrt(12)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple((torch.as_tensor(self.step) + torch.as_tensor(self.offset)).shape)

    def add(self, clean: Tensor, streams: Streams) -> Tensor:
        step, offset = self._like(clean)
        return offset + step * ((clean - offset) / step + 0.5).floor()

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        step, offset = self._like(clean)
        # The interval is widened by the rounding error, so that a value that was just rounded is always inside.
        inside = (y - clean).abs() <= step * (0.5 + 8 * torch.finfo(clean.dtype).eps * (1 + offset.abs() / step))
        return torch.where(inside, 0 * clean, -torch.inf)

    def variance(self, y: Tensor, clean: Tensor) -> Tensor:
        step, _ = self._like(y)
        return torch.ones_like(y[:1]) * (step**2 / 12)

    def _like(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return step and offset in the dtype and on the device of ``values``."""
        step, offset = (torch.as_tensor(value, dtype=values.dtype, device=values.device) for value in (self.step, self.offset))
        return step, offset

    def __repr__(self) -> str:
        return f"RoundingNoise({_shown(self.step)}, offset={_shown(self.offset)})"


def _shown(value: float | Tensor) -> str:
    if not isinstance(value, Tensor) or not value.ndim:
        return f"{float(value):g}"
    return f"{float(value.min()):g} to {float(value.max()):g}"
