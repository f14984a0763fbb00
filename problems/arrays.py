"""The interface of tasks whose measurement is no picture."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.operators import ChannelMix, GaussianNoise, Noise, Operator

from .base import Problem

__all__ = ["ArrayProblem", "Arrays", "grey"]

Arrays = Mapping[str, NDArray[Any]]


class ArrayProblem(Problem):
    r"""A task whose measurement comes as arrays: k-space, a sinogram, diffraction patterns, random projections.

    A file holds the measured numbers, and in ``.npz`` files also what else is known of the measurement, by name. They are those
    of an image that is 0 where it is black and ``scale`` where it is white, and independent of its range of [-1, 1] here:

    .. math:: y = \frac{2}{\text{scale}}\, y_\text{file} - A(1)

    for a linear :math:`A`, so that :math:`y = A x + n` again. Noise is that of an image on the 0..1 scale.

    Attributes:
        measured: Name of the array of measured numbers.
        looks: What :meth:`preview` shows.
        scale: What white is in the units of the file.
    """

    measured: ClassVar[str]
    looks: ClassVar[str]
    size: tuple[int, int]  # pyright: ignore[reportIncompatibleVariableOverride] - always one here
    scale: float = 1.0

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Arrays, *, scale: float | None) -> tuple[Self, Tensor]:
        """Return the task that the arrays of a file describe, and the measurement ``(1, C, ...)``.

        Args:
            arrays: By name; the one of a file without names by the name ``measured``.
            scale: What white is in the units of the file. ``None``: what a simple reconstruction shows.

        Raises:
            ValueError: If an array is missing, or has a shape or values that it cannot have.
        """

    @abstractmethod
    def to_arrays(self, y: Tensor) -> dict[str, NDArray[Any]]:
        """Return what :meth:`from_arrays` reads, for a measurement ``(1, C, ...)``."""

    @abstractmethod
    def measurement(self, shape: tuple[int, int, int], noise: Noise) -> Operator:
        """Return the operator for images ``(C, *size)``."""

    def operator(self, shape: tuple[int, int, int], *, sigma_y: float) -> Operator:
        if tuple(shape[1:]) != self.size:
            (height, width), (_, h, w) = self.size, shape
            raise ValueError(f"{self.name}: what was measured is an image of {width} x {height} pixels, got one of {w} x {h}.")
        return self.measurement(shape, GaussianNoise(sigma_y))

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        return measured[0], *self.size

    def in_range(self, y: Tensor) -> Tensor:
        """Return a measurement of an image that is 0 where it is black as one of an image that spans [-1, 1]."""
        return (2 / self.scale) * y - self._of_white(y)

    def in_units(self, y: Tensor) -> Tensor:
        """Return a measurement of an image that spans [-1, 1] in the units of a file: undo :meth:`in_range`."""
        return (self.scale / 2) * (y + self._of_white(y))

    def _of_white(self, y: Tensor) -> Tensor:
        op = self.operator(self.image_shape(y.shape[1:]), sigma_y=0.0)
        return op(torch.ones(1, *op.in_shape, dtype=y.dtype))


def grey(x: Tensor) -> Tensor:
    """Return pictures ``(B, C, H, W)``, in grey where they have colours."""
    return ChannelMix.grey(x.shape[1:])(x) if x.shape[1] == 3 else x
