"""Families of blur kernels: Gaussian, disc, line, and any kernel on the simplex."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from invdiff.operators.blur.kernels import disc, gaussian_kernel
from invdiff.operators.core.validation import odd_size

__all__ = ["DiscFamily", "FreeFamily", "GaussianFamily", "LineFamily", "ParametricFamily"]

POINTS = 8  # Points per pixel of a line
GAUSSIAN_BIAS, DISC_BIAS, LINE_BIAS = 0.08, 0.03, 0.15  # relative, relative, in pixels; see ``bias``


class ParametricFamily(ABC):
    r"""Kernels :math:`k_\theta` with one or two parameters, with a prior that is uniform in :meth:`coordinates`.

    Attributes:
        names: Names of the parameters.
        bounds: Smallest and largest value of each parameter.
        size: Side of the kernels in pixels, odd; the widest kernel fits.
    """

    names: tuple[str, ...]
    bounds: tuple[tuple[float, float], ...]
    size: int

    @abstractmethod
    def kernel(self, parameters: Sequence[float], *, shift: float = 0.0) -> Tensor:
        """Return the kernel, float64 with sum 1, ``(size, size)``.

        Args:
            parameters: One value for each name, within ``bounds``.
            shift: 0, or 0.5 for a kernel whose center lies half a pixel below and to the right of the middle pixel, as the
                centers of blocks with an even side do.
        """

    @abstractmethod
    def start(self) -> list[tuple[float, ...]]:
        """Return the grid of parameters from which the search starts."""

    @abstractmethod
    def spacing(self, parameters: Sequence[float]) -> tuple[float, ...]:
        """Return how far the neighbors of a grid point are, for each parameter."""

    @abstractmethod
    def bias(self, parameters: Sequence[float]) -> tuple[float, ...]:
        """Return the standard deviation of the error that all parts of a picture share, for each parameter.

        It is what the denoiser is wrong by, whatever the size of the picture; measured (``docs/how-to/blind.md``).
        """

    def wrapped(self, parameters: Sequence[float]) -> tuple[float, ...] | None:
        """Return the same kernel's parameters within ``bounds``, or ``None`` if they are outside."""
        inside = all(low <= value <= high for value, (low, high) in zip(parameters, self.bounds, strict=True))
        return tuple(parameters) if inside else None

    def _checked(self, parameters: Sequence[float]) -> tuple[float, ...]:
        values = tuple(map(float, parameters))
        if len(values) != len(self.names) or not all(map(math.isfinite, values)):
            raise ValueError(f"{type(self).__name__}: expected finite values of {', '.join(self.names)}, got {values}.")
        for name, value, (low, high) in zip(self.names, values, self.bounds, strict=True):
            if not low - 1e-9 <= value <= high + 1e-9:
                raise ValueError(f"{type(self).__name__}: {name} must lie in [{low:g}, {high:g}], got {value:g}.")
        return values

    def __repr__(self) -> str:
        ranges = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in zip(self.names, self.bounds, strict=True))
        return f"{type(self).__name__}({ranges})"


class GaussianFamily(ParametricFamily):
    r"""Isotropic Gaussian kernels, :math:`k_{ab} \propto \exp(-(a^2 + b^2) / (2 \sigma^2))`; prior uniform in the logarithm.

    Args:
        low: Smallest standard deviation :math:`\sigma` in pixels, positive. At 0.3 the kernel is nearly a point.
        high: Largest standard deviation.
    """

    names = ("sigma",)

    def __init__(self, low: float = 0.3, high: float = 5.0) -> None:
        self.bounds = (_range("GaussianFamily", "sigma", low, high),)
        self.size = 2 * math.ceil(3.5 * high + 0.5) + 1

    def kernel(self, parameters: Sequence[float], *, shift: float = 0.0) -> Tensor:
        (sigma,) = self._checked(parameters)
        if shift == 0:
            return gaussian_kernel(sigma, self.size)
        side = torch.arange(self.size, dtype=torch.float64) - self.size // 2 - shift
        row = (-((side / sigma) ** 2) / 2).exp()
        kernel = torch.outer(row, row)
        return kernel / kernel.sum()

    def start(self) -> list[tuple[float, ...]]:
        return [(value,) for value in _logarithmic(*self.bounds[0], ratio=1.3)]

    def spacing(self, parameters: Sequence[float]) -> tuple[float, ...]:
        return (0.15 * parameters[0],)

    def bias(self, parameters: Sequence[float]) -> tuple[float, ...]:
        return (GAUSSIAN_BIAS * parameters[0],)


class DiscFamily(ParametricFamily):
    """Uniform discs, the blur of a lens out of focus (:func:`invdiff.operators.defocus_kernel`).

    The prior is uniform in the logarithm of the radius.

    Args:
        low: Smallest radius in pixels, positive. Up to 0.5 the kernel is a point.
        high: Largest radius.
    """

    names = ("radius",)

    def __init__(self, low: float = 0.5, high: float = 12.0) -> None:
        self.bounds = (_range("DiscFamily", "radius", low, high),)
        self.size = 2 * math.ceil(high + 0.5) + 1

    def kernel(self, parameters: Sequence[float], *, shift: float = 0.0) -> Tensor:
        (radius,) = self._checked(parameters)
        halves = disc(radius, 2 * self.size, 0.5)  # In half pixels, so that the center may lie between pixels.
        moved = round(2 * shift)
        halves = torch.nn.functional.pad(halves, (moved, -moved, moved, -moved))
        kernel = halves.reshape(self.size, 2, self.size, 2).sum((1, 3))
        return kernel / kernel.sum()

    def start(self) -> list[tuple[float, ...]]:
        return [(value,) for value in _logarithmic(*self.bounds[0], ratio=1.2)]

    def spacing(self, parameters: Sequence[float]) -> tuple[float, ...]:
        return (max(0.1 * parameters[0], 0.1),)

    def bias(self, parameters: Sequence[float]) -> tuple[float, ...]:
        return (DISC_BIAS * parameters[0],)


class LineFamily(ParametricFamily):
    r"""Segments, the blur of a steady motion; prior uniform in the logarithm of the length and in the angle.

    .. math:: k_{ab} = \frac1L \int_{-L/2}^{L/2} \Lambda(a + t \sin\varphi)\, \Lambda(b - t \cos\varphi)\, dt, \qquad
        \Lambda(u) = \max(0, 1 - |u|)

    with :math:`a` rows below the center and :math:`b` columns to the right of it.

    Args:
        low: Smallest length :math:`L` in pixels, positive.
        high: Largest length.
    """

    names = ("length", "angle")

    def __init__(self, low: float = 2.0, high: float = 30.0) -> None:
        self.bounds = (_range("LineFamily", "length", low, high), (0.0, 180.0))
        self.size = 2 * math.ceil(high / 2 + 1) + 1

    def kernel(self, parameters: Sequence[float], *, shift: float = 0.0) -> Tensor:
        length, angle = self._checked(parameters)
        count = max(3, math.ceil(POINTS * length))
        places = length * ((torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5)
        side = torch.arange(self.size, dtype=torch.float64)[:, None] - self.size // 2 - shift
        rows = (1 - (side + places * math.sin(math.radians(angle))).abs()).clamp(min=0)
        columns = (1 - (side - places * math.cos(math.radians(angle))).abs()).clamp(min=0)
        kernel = rows @ columns.mT
        return kernel / kernel.sum()

    def start(self) -> list[tuple[float, ...]]:
        grid: list[tuple[float, ...]] = []
        for length in _logarithmic(*self.bounds[0], ratio=1.5):
            count = min(16, max(4, round(2.5 * length / 2)))  # The ends of neighbors are a pixel and a half apart.
            grid += [(length, 180.0 * k / count) for k in range(count)]
        return grid

    def spacing(self, parameters: Sequence[float]) -> tuple[float, ...]:
        return 0.2 * parameters[0], min(22.5, math.degrees(1.2 / parameters[0]))

    def bias(self, parameters: Sequence[float]) -> tuple[float, ...]:
        return LINE_BIAS, math.degrees(2 * LINE_BIAS / parameters[0])  # of the ends, along the line and across it

    def wrapped(self, parameters: Sequence[float]) -> tuple[float, ...] | None:
        length, angle = parameters
        return super().wrapped((length, angle % 180.0))


class FreeFamily:
    """Any nonnegative kernel of sum 1 within a square, such as camera shake.

    Args:
        size: Side of the square in pixels, odd, at least 5.
    """

    names: tuple[str, ...] = ()

    def __init__(self, size: int = 31) -> None:
        self.size = odd_size("FreeFamily", size, least=5)

    def __repr__(self) -> str:
        return f"FreeFamily(size={self.size})"


def _range(owner: str, name: str, low: float, high: float) -> tuple[float, float]:
    if not (math.isfinite(low) and math.isfinite(high) and 0 < low < high):
        raise ValueError(f"{owner}: expected 0 < low < high for {name}, in pixels, got low={low}, high={high}.")
    return float(low), float(high)


def _logarithmic(low: float, high: float, *, ratio: float) -> list[float]:
    """Return values from ``low`` to ``high`` whose ratios are at most ``ratio``."""
    count = max(2, math.ceil(math.log(high / low) / math.log(ratio)) + 1)
    return [low * (high / low) ** (k / (count - 1)) for k in range(count)]
