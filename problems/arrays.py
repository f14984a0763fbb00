"""Interface of problems whose measurement is an array rather than a picture."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.io.images import Picture, atomic_write
from invdiff.io.source import Source
from invdiff.operators import ChannelMix, Noise, Operator

from .problem import Given, Problem

__all__ = ["ArrayProblem", "Arrays", "grey", "image_size", "real_numbers", "white_of"]

Arrays = Mapping[str, NDArray[Any]]

BRIGHT = 0.995  # quantile of the reconstruction taken as white
LARGEST = 2**26  # pixels


class ArrayProblem(Problem):
    r"""A problem whose measurement is an array: k-space, a sinogram, diffraction patterns or random projections.

    A file holds the measured values; ``.npz`` files may also hold other arrays that describe the measurement, by name. The
    values are the measurement of an image in which black is 0 and white is ``scale``. Images here span [-1, 1], so values are
    converted by

    .. math:: y = \frac{2}{\text{scale}}\, y_\text{file} - A(1)

    for a linear :math:`A`, which gives :math:`y = A x + n` again. The noise level refers to an image on the 0..1 scale.

    Attributes:
        measured: Name of the array of measured values.
        scale: Pixel value of white in the units of the file.
    """

    reads: ClassVar[Literal["picture", "arrays", "JPEG file"]] = "arrays"
    accepts_noise: ClassVar[Literal["any", "above 0", "gaussian", "rounding"]] = "gaussian"
    measured: ClassVar[str]
    size: tuple[int, int]  # pyright: ignore[reportIncompatibleVariableOverride] - never None here
    scale: float = 1.0

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Arrays, *, scale: float | None) -> tuple[Self, Tensor]:
        """Return the problem that the arrays of a file describe, and the measurement ``(1, C, ...)``.

        Args:
            arrays: Arrays by name. The single array of an ``.npy`` file has the name in ``measured``.
            scale: Pixel value of white in the units of the file. ``None``: estimated from a simple reconstruction, or 1.

        Raises:
            ValueError: If an array is missing, or has an invalid shape or invalid values.
        """

    @abstractmethod
    def to_arrays(self, y: Tensor) -> dict[str, NDArray[Any]]:
        """Return the arrays that :meth:`from_arrays` reads, for a measurement ``(1, C, ...)``."""

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        if tuple(shape[1:]) != self.size:
            (height, width), (_, h, w) = self.size, shape
            raise ValueError(f"{self.name}: the measured image has {width} x {height} pixels, got one of {w} x {h}.")
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
        note = f"white is {problem.scale:.4g} in the units of INPUT{'' if scale else ' (change it with --scale)'}"
        return Given(problem, y, Picture(np.zeros((1, 1, 1)), bits=16), (note,))

    def numbers(self, y: Tensor) -> NDArray[Any]:
        return self.to_arrays(y)[self.measured]

    def write_measurement(self, folder: Path, y: Tensor, *, suffix: str, bits: int, icc: bytes | None) -> None:
        arrays: dict[str, Any] = self.to_arrays(y)
        with atomic_write(folder / "measurement.npz") as part:
            np.savez_compressed(part, **arrays)

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        return measured[0], *self.size

    def in_range(self, y: Tensor) -> Tensor:
        """Convert a measurement from the units of a file, with black at 0, to those of an image spanning [-1, 1]."""
        return (2 / self.scale) * y - self._of_white(y)

    def in_units(self, y: Tensor) -> Tensor:
        """Convert a measurement of an image spanning [-1, 1] to the units of a file: the inverse of :meth:`in_range`."""
        return (self.scale / 2) * (y + self._of_white(y))

    def _of_white(self, y: Tensor) -> Tensor:
        op = self.operator(self.image_shape(y.shape[1:]))
        return op(torch.ones(1, *op.in_shape, dtype=y.dtype))


def grey(x: Tensor) -> Tensor:
    """Return pictures ``(B, C, H, W)``, converted to grayscale if they have three channels.

    Raises:
        ValueError: If the number of channels is neither 1 nor 3.
    """
    if x.shape[1] not in (1, 3):
        raise ValueError(f"expected a grayscale or an RGB picture, got {x.shape[1]} channels.")
    return ChannelMix.gray(x.shape[1:])(x) if x.shape[1] == 3 else x


def real_numbers(arrays: Arrays, name: str) -> Tensor:
    """Return an array of a file as float64.

    Raises:
        ValueError: If the array is empty, not real or not finite.
    """
    values = np.asarray(arrays[name])
    if values.dtype.kind not in "buif" or not values.size or not np.isfinite(values).all():
        raise ValueError(f"{name} must hold finite real numbers, got {values.dtype} of shape {values.shape}.")
    return torch.from_numpy(values.astype(np.float64))


def image_size(arrays: Arrays) -> tuple[int, int]:
    """Return the image size ``(H, W)`` from the array ``size`` of a file.

    Raises:
        ValueError: If it is not a pair of positive integers, or the image has too many pixels.
    """
    given = real_numbers(arrays, "size")
    if given.shape != (2,) or (given < 1).any() or (given != given.round()).any() or float(given.prod()) > LARGEST:
        raise ValueError(
            f"size must be (H, W), two positive integers with a product of at most {LARGEST}, got {given.tolist()}."
        )
    height, width = (int(side) for side in given)
    return height, width


def white_of(picture: Tensor) -> float:
    """Return the white level of a reconstruction in the units of a file: the 99.5 % quantile of its pixels.

    Raises:
        ValueError: If it is not positive.
    """
    level = float(np.quantile(picture.numpy(), BRIGHT))
    if not level > 0:
        raise ValueError(
            f"the reconstruction has no bright pixels: white would be {level:g}. Expected the measurement of an image that is "
            "not completely dark; otherwise give the white level with --scale."
        )
    return level
