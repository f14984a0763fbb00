"""The interface of problems whose measurement is no picture."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.io.images import Picture
from invdiff.io.source import Source
from invdiff.operators import ChannelMix, Noise, Operator

from .problem import Given, Problem

__all__ = ["ArrayProblem", "Arrays", "grey", "image_size", "real_numbers", "white_of"]

Arrays = Mapping[str, NDArray[Any]]

BRIGHT = 0.995  # quantile of a picture that counts as white
LARGEST = 2**26  # pixels


class ArrayProblem(Problem):
    r"""A problem whose measurement comes as arrays: k-space, a sinogram, diffraction patterns, random projections.

    A file holds the measured numbers, and in ``.npz`` files also what else is known of the measurement, by name. They are those
    of an image that is 0 where it is black and ``scale`` where it is white, and independent of its range of [-1, 1] here:

    .. math:: y = \frac{2}{\text{scale}}\, y_\text{file} - A(1)

    for a linear :math:`A`, so that :math:`y = A x + n` again. Noise is that of an image on the 0..1 scale.

    Attributes:
        measured: Name of the array of measured numbers.
        scale: What white is in the units of the file.
    """

    reads: ClassVar[Literal["picture", "arrays", "JPEG file"]] = "arrays"
    accepts_noise: ClassVar[Literal["any", "above 0", "gaussian", "rounding"]] = "gaussian"
    measured: ClassVar[str]
    size: tuple[int, int]  # pyright: ignore[reportIncompatibleVariableOverride] - always one here
    scale: float = 1.0

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Arrays, *, scale: float | None) -> tuple[Self, Tensor]:
        """Return the problem that the arrays of a file describe, and the measurement ``(1, C, ...)``.

        Args:
            arrays: By name; the one of a file without names by the name ``measured``.
            scale: What white is in the units of the file. ``None``: what a simple reconstruction shows.

        Raises:
            ValueError: If an array is missing, or has a shape or values that it cannot have.
        """

    @abstractmethod
    def to_arrays(self, y: Tensor) -> dict[str, NDArray[Any]]:
        """Return what :meth:`from_arrays` reads, for a measurement ``(1, C, ...)``."""

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        if tuple(shape[1:]) != self.size:
            (height, width), (_, h, w) = self.size, shape
            raise ValueError(f"{self.name}: what was measured is an image of {width} x {height} pixels, got one of {w} x {h}.")
        return self.measurement(shape, noise)

    @abstractmethod
    def measurement(self, shape: tuple[int, int, int], noise: Noise | None) -> Operator:
        """Return the operator for images ``(C, *size)``."""

    @classmethod
    def read(cls, source: Source, options: Mapping[str, Any]) -> Given:
        scale = options["scale"]
        try:
            problem, y = cls.from_arrays(source.arrays(cls.measured), scale=scale)
        except ValueError as error:
            raise ValueError(str(error) if str(source) in str(error) else f"{source}: {error}") from error
        note = f"white is {problem.scale:.4g} in the units of INPUT{'' if scale else ' (--scale changes it)'}"
        return Given(problem, y, Picture(np.zeros((1, 1, 1)), bits=16), (note,))

    def numbers(self, y: Tensor) -> NDArray[Any]:
        return self.to_arrays(y)[self.measured]

    def write_measurement(self, folder: Path, y: Tensor, *, suffix: str, bits: int, icc: bytes | None) -> None:
        arrays: dict[str, Any] = self.to_arrays(y)
        np.savez_compressed(folder / "measurement.npz", **arrays)

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        return measured[0], *self.size

    def in_range(self, y: Tensor) -> Tensor:
        """Return a measurement of an image that is 0 where it is black as one of an image that spans [-1, 1]."""
        return (2 / self.scale) * y - self._of_white(y)

    def in_units(self, y: Tensor) -> Tensor:
        """Return a measurement of an image that spans [-1, 1] in the units of a file: undo :meth:`in_range`."""
        return (self.scale / 2) * (y + self._of_white(y))

    def _of_white(self, y: Tensor) -> Tensor:
        op = self.operator(self.image_shape(y.shape[1:]))
        return op(torch.ones(1, *op.in_shape, dtype=y.dtype))


def grey(x: Tensor) -> Tensor:
    """Return pictures ``(B, C, H, W)``, in grey where they have colors.

    Raises:
        ValueError: If they have neither one channel nor three.
    """
    if x.shape[1] not in (1, 3):
        raise ValueError(f"expected a grey picture, or one of red, green and blue, got {x.shape[1]} channels.")
    return ChannelMix.gray(x.shape[1:])(x) if x.shape[1] == 3 else x


def real_numbers(arrays: Arrays, name: str) -> Tensor:
    """Return an array of a file, float64.

    Raises:
        ValueError: If it does not hold real numbers, is empty or not finite.
    """
    values = np.asarray(arrays[name])
    if values.dtype.kind not in "buif" or not values.size or not np.isfinite(values).all():
        raise ValueError(f"{name} must hold finite real numbers, got {values.dtype} of shape {values.shape}.")
    return torch.from_numpy(values.astype(np.float64))


def image_size(arrays: Arrays) -> tuple[int, int]:
    """Return the ``size`` that a file gives, ``(H, W)``.

    Raises:
        ValueError: If it is not two whole numbers, positive and of an image that fits a memory.
    """
    given = real_numbers(arrays, "size")
    if given.shape != (2,) or (given < 1).any() or (given != given.round()).any() or float(given.prod()) > LARGEST:
        raise ValueError(f"size must be the two sides (H, W) of an image of at most {LARGEST} pixels, got {given.tolist()}.")
    height, width = (int(side) for side in given)
    return height, width


def white_of(picture: Tensor) -> float:
    """Return what is white in a picture in the units of a file: what its brightest pixels have, but for half a percent.

    Raises:
        ValueError: If that is no positive number.
    """
    level = float(np.quantile(picture.numpy(), BRIGHT))
    if not level > 0:
        raise ValueError(
            f"nothing in it is bright: white would be {level:g}. Expected what an image makes that is not all dark."
        )
    return level
