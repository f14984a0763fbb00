"""The window of a file: the values, in its units, that are black and white to the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from invdiff.formats.format import Array, Stack

__all__ = ["Window", "window_of"]

TAILS = 0.1, 99.9  # percentiles of the values
FAR = 4.0  # times the range between them, beyond which the extremes are left out
HELD = 0.98  # share of the values that the window of a header must hold to be taken
LOOKED_AT = 16  # pictures of a stack


@dataclass(frozen=True)
class Window:
    """Values that become -1 and 1.

    Attributes:
        low: Value of black, in the units of the file.
        high: Value of white.
        told_by: What says so.
    """

    low: float
    high: float
    told_by: Literal["given", "header", "values", "reconstruction"]

    def pixels(self, values: Array) -> Array:
        """Return values in the units of the file as pixels that span [-1, 1]."""
        return 2 * (values - self.low) / (self.high - self.low) - 1

    def values(self, pixels: Array) -> Array:
        """Return pixels in the units of the file."""
        return self.low + (self.high - self.low) * (pixels + 1) / 2

    @property
    def half(self) -> float:
        """Units of the file per unit of pixels, for standard deviations."""
        return (self.high - self.low) / 2

    def outside(self, values: Array) -> float:
        """Return the share of the values, those measured, that lie outside."""
        known = values[~np.isnan(values)]
        return float(((known < self.low) | (known > self.high)).mean()) if known.size else 0.0


def window_of(stack: Stack) -> Window:
    """Return the window of a file.

    It is the same for all pictures of a file, of which 16 are looked at: that of the header, if it holds 98 % of the values or
    is that of the instrument. Otherwise it reaches from the smallest to the largest value, or, where these are outliers,
    farther apart than 4 times the range of the percentiles 0.1 and 99.9, it is that range.

    Args:
        stack: What the file holds.

    Raises:
        ValueError: If all values are equal, or none was measured: the reason alone.
    """
    places = np.unique(np.linspace(0, stack.count - 1, min(LOOKED_AT, stack.count)).round().astype(int))
    seen = [stack.picture(k).ravel() for k in places.tolist()]
    values = np.concatenate(seen)
    values = values[~np.isnan(values)]
    if not values.size:
        raise ValueError("none of its values is measured: all are NaN or masked")
    if not np.isfinite(values).all():
        raise ValueError("it holds infinite values")
    if stack.window is not None:
        low, high = stack.window
        if (
            math.isfinite(low)
            and math.isfinite(high)
            and low < high
            and (stack.calibrated or _share(values, low, high) >= HELD)
        ):
            return Window(low, high, "header")
    low, high = float(values.min()), float(values.max())
    inner, outer = (float(end) for end in np.percentile(values, TAILS))
    if outer > inner and high - low > FAR * (outer - inner):
        low, high = inner, outer
    if not high > low:
        raise ValueError(f"all its values are {low:g}: nothing can be told from them")
    return Window(low, high, "values")


def _share(values: Array, low: float, high: float) -> float:
    return float(((values >= low) & (values <= high)).mean())
