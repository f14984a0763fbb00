"""Interface of problems whose measurement is an array rather than a picture."""

from __future__ import annotations

import difflib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invdiff.formats.window import Window
from invdiff.io.images import Picture, atomic_write
from invdiff.io.source import Source
from invdiff.operators import ChannelMix, Noise, Operator

from .options import OptionError
from .problem import Given, Problem

__all__ = ["ArrayProblem", "Arrays", "grey", "image_size", "named", "one_number", "real_numbers", "white_of", "whole_numbers"]

Arrays = Mapping[str, NDArray[Any]]

BRIGHT = 0.995  # quantile of the reconstruction taken as white
LARGEST = 2**26  # pixels
FAR_OFF = 8.0  # ratio of the white of a reconstruction and a given one; np.fft.fft2 is off by the root of the number of pixels

# Names that other software gives to the arrays of the same meaning.
SYNONYMS = {
    **dict.fromkeys(("theta", "thetas", "angle", "projection_angles"), "angles"),
    **dict.fromkeys(("sens_maps", "sensitivity_maps", "sensitivities", "smaps", "csm", "maps", "coils"), "coil_maps"),
    **dict.fromkeys(("k", "ksp", "k_space"), "kspace"),
    **dict.fromkeys(("cor", "rotation_center", "center_of_rotation"), "center"),
    **dict.fromkeys(("white", "air", "flats", "flat_field"), "flat"),
    **dict.fromkeys(("darks", "dark_field"), "dark"),
    **dict.fromkeys(("intensity", "patterns"), "intensities"),
}


class ArrayProblem(Problem):
    r"""A problem whose measurement is an array: k-space, a sinogram, diffraction patterns or random projections.

    A file holds the measured values; ``.npz`` files may also hold other arrays that describe the measurement, by name. The
    values are the measurement of an image in which black is 0 and white is ``scale``. Images here span [-1, 1], so values are
    converted by

    .. math:: y = \frac{2}{\text{scale}}\, y_\text{file} - A(1)

    for a linear :math:`A`, which gives :math:`y = A x + n` again. The noise level refers to an image on the 0..1 scale.

    Attributes:
        measured: Name of the array of measured values.
        others: Names of the other arrays that a file may hold. An option of the same name takes the place of the array.
        scale: Pixel value of white in the units of the file.
        unit: Unit of :attr:`window`; empty: that of the file.
        notes: Messages for the user about how the arrays were read, set by :meth:`from_arrays`.
    """

    reads: ClassVar[Literal["picture", "arrays", "JPEG file"]] = "arrays"
    accepts_noise: ClassVar[Literal["any", "above 0", "gaussian", "rounding"]] = "gaussian"
    measured: ClassVar[str]
    others: ClassVar[Sequence[str]] = ()
    size: tuple[int, int]  # pyright: ignore[reportIncompatibleVariableOverride] - never None here
    scale: float = 1.0
    unit: str = ""
    notes: tuple[str, ...] = ()

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
            arrays = source.arrays(cls.measured)
            cls._check_names(arrays)
            given = {name: np.asarray(options[name]) for name in cls.others if options.get(name) is not None}
            problem, y = cls.from_arrays({**arrays, **given}, scale=scale)
            if not y.isfinite().all():
                raise ValueError(f"{cls.measured} holds values beyond the range of float32, with white at {problem.scale:.4g}.")
        except (ValueError, TypeError) as error:
            raise ValueError(str(error) if str(source) in str(error) else f"{source}: {error}") from error
        unit = problem.unit or "in the units of INPUT"
        note = f"white is {problem.window.high:.4g} {unit}{'' if scale else ' (change it with --scale)'}"
        origin = source.origin(problem.window)
        if origin is not None and problem.unit:
            origin = replace(origin, contents=replace(origin.contents, unit=problem.unit))
        picture = Picture(np.zeros((1, 1, 1)), bits=16, origin=origin)
        held = () if source.contents is None else source.contents[1].notes
        return Given(problem, y, picture, (*held, *problem.notes, note))

    @property
    def window(self) -> Window:
        """Values of black and white in the images of results."""
        return Window(0.0, self.scale, "reconstruction")

    @classmethod
    def _check_names(cls, arrays: Arrays) -> None:
        """Check that a file holds only arrays that are read, so that nothing it says is ignored."""
        known = [cls.measured, *cls.others]
        for name in arrays:
            if cls.others and name not in known:
                near = difflib.get_close_matches(name.lower(), known, n=1)
                meant = SYNONYMS.get(name.lower(), near[0] if near else "")
                hint = f" Did you mean `{meant}`?" if meant in known else ""
                raise ValueError(
                    f"{cls.name}: unknown array `{name}`, expected {', '.join(known)}.{hint} Rename it, or leave it out."
                )

    @classmethod
    def refuse_measured(cls, options: Mapping[str, Any], *names: str) -> None:
        """Refuse options that describe a measured INPUT, in a simulation.

        Raises:
            OptionError: If one of them is given.
        """
        for option in cls.options:
            if option.name in names and options.get(option.name) is not None:
                raise OptionError(f"{option.flag} describes a measured INPUT. Leave it out of a simulation.")

    def set_scale(self, scale: float | None, picture: Tensor) -> None:
        """Set :attr:`scale`, by default to the white level of a reconstruction, and note a value that is far from it.

        Raises:
            ValueError: If there is no value, and the reconstruction has no bright pixels.
        """
        self.scale = white_of(picture) if scale is None else scale
        self.doubt_scale(float(np.quantile(picture.numpy(), BRIGHT)))

    def doubt_scale(self, found: float) -> None:
        """Add a note if the white of a reconstruction, in the units of a file, is far from :attr:`scale`."""
        if found > FAR_OFF * self.scale or 0 < found < self.scale / FAR_OFF:
            self.notes += (
                f"a simple reconstruction has its white near {found:.3g}, and {self.scale:.3g} is taken: choose --scale, or "
                "check that the transform is unitary (np.fft.fft2 needs norm='ortho'; patterns of 1 and -1 are divided by the "
                "root of their number)",
            )

    def numbers(self, y: Tensor) -> NDArray[Any]:
        return self.to_arrays(y)[self.measured]

    def write_measurement(
        self, folder: Path, y: Tensor, *, suffix: str, bits: int, icc: bytes | None, exif: bytes | None = None
    ) -> None:
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
        bad = int((~np.isfinite(values)).sum()) if values.dtype.kind == "f" else 0
        hint = f" with {bad} values that are NaN or infinite" if bad else ""
        raise ValueError(f"{name} must hold finite real numbers, got {values.dtype} of shape {values.shape}{hint}.")
    return torch.from_numpy(values.astype(np.float64))


def one_number(arrays: Arrays, name: str) -> float:
    """Return the single number in an array of a file.

    Raises:
        ValueError: If there is not exactly one, or it is not real and finite.
    """
    values = real_numbers(arrays, name)
    if values.numel() != 1:
        raise ValueError(f"{name} must be one number, got shape {tuple(values.shape)}.")
    return float(values)


def whole_numbers(arrays: Arrays, name: str) -> Tensor:
    """Return an array of a file as int64.

    Raises:
        ValueError: If a value is not an integer.
    """
    values = real_numbers(arrays, name)
    if (values != values.round()).any() or (values.abs() >= 2**53).any():
        wrong = values[(values != values.round()) | (values.abs() >= 2**53)]
        raise ValueError(f"{name} must hold integers below 2^53, got {float(wrong[0]):g}.")
    return values.long()


def named(arrays: Arrays, name: str, choices: Sequence[str]) -> str:
    """Return a word that a file holds as an array of text.

    Raises:
        ValueError: If it is none of the choices.
    """
    values = np.asarray(arrays[name])
    word = str(values.reshape(-1)[0]) if values.size == 1 and values.dtype.kind in "US" else ""
    if values.dtype.kind == "S" and word:
        word = bytes(values.reshape(-1)[0]).decode("ascii", "replace")
    if word.lower() not in choices:
        raise ValueError(f"{name} must be {' or '.join(choices)}, got {word or f'{values.dtype} of shape {values.shape}'!r}.")
    return word.lower()


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
