"""Values of black and white in the units of a file, and pictures whose range of values is probably another one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from invdiff.formats.window import Window
from invdiff.io.codecs import decode
from invdiff.io.images import Picture, picture_of_array
from invdiff.io.source import Source
from invdiff.operators import Noise
from invdiff.problems import OptionError

__all__ = ["Levels", "check_range", "dark_notes", "fewer_bits", "given_window", "levels_of", "read_levels"]

BRIGHTEST = 1e15  # farthest from black, in units of white, whose square and sums of it float32 holds
DARK = 0.25  # share of white below which the brightest value is worth a note
BITS = (8, 10, 12, 14)  # of the analog-to-digital converters of cameras
BELOW, RINGING = 3.0, 0.1  # distance below black that noise rarely reaches, in noise levels, and that of sharp edges
SHARE, HEAVY_SHARE = 0.05, 0.08  # largest share of values there, and with heavy-tailed noise
FARTHER_SHARE = 0.002  # largest share of values at twice this distance
NEARER_SHARE = 0.21  # largest share at one noise level, below which 16 % of a black picture are


@dataclass(frozen=True)
class Levels:
    """Black and white of pictures that span [-1, 1], in the units of a file.

    Attributes:
        black: Value of black in the units of the file.
        white: Value of white.
        full: Value that a file of this type holds for white by itself: 255, 65535, or 1 for floats.
    """

    black: float
    white: float
    full: float

    @property
    def scale(self) -> float:
        """Units of pictures of these levels per unit of pictures whose black is 0 and whose white is ``full``."""
        return self.full / (self.white - self.black)

    def stored(self, x: Tensor) -> Tensor:
        """Return pictures that span [-1, 1] in the levels of the file, again as pictures whose white is ``full``.

        Results of files of floats stay on the 0..1 scale, because pictures hold integers.
        """
        if self.full == 1:
            return x
        return 2 * (self.black + (self.white - self.black) * (x + 1) / 2) / self.full - 1


def levels_of(black: float | None, white: float | None) -> tuple[float, float | None] | None:
    """Return the levels that are given, or ``None``; a missing level of white is found in the file.

    Raises:
        OptionError: If they are not finite, or black is not below white.
    """
    if black is None and white is None:
        return None
    if not all(math.isfinite(level) for level in (black or 0.0, white or 0.0)):
        raise OptionError(f"--black and --white: expected finite numbers, got {black} and {white}.")
    if white is not None and not white > (black or 0.0):
        raise OptionError(f"--white: expected a number above the level of black, {black or 0.0:g}, got {white:g}.")
    return black or 0.0, white


def given_window(limits: tuple[float, float | None] | None, source: Source) -> Window | None:
    """Return the window that is given for a file with units, or ``None``.

    Raises:
        OptionError: If only black is given: such a file has no white of its own.
    """
    if limits is None:
        return None
    black, white = limits
    if white is None:
        raise OptionError(f"--black: {source} has no white of its own; give both ends, --window LOW HIGH.")
    return Window(black, white, "given")


def read_levels(source: Source, black: float, white: float | None) -> tuple[Picture, Levels]:
    """Return the picture of a source, given black and white in its units.

    Raises:
        OptionError: If black is not below white.
        ValueError: If the source is not a picture.
        OSError: If a file cannot be opened.
    """
    picture, values, full = _raw(source)
    white = full if white is None else white
    if not white > black:
        raise OptionError(f"--black: expected a number below the level of white, {white:g}, got {black:g}.")
    levels = Levels(black, white, full)
    if values is not None:
        _check_levels(values, levels)
        unit = (values.astype(np.float64) - black) / (white - black)
        return replace(picture_of_array(unit, str(source)), bits=8 if full == 255 else 16), levels
    assert picture is not None
    stored = (picture.pixels + 1) / 2 * full
    _check_levels(stored, levels)
    return replace(picture, pixels=2 * (stored - black) / (white - black) - 1), levels


def _check_levels(values: NDArray[Any], levels: Levels) -> None:
    """Raise an error if the squares of the values on the 0..1 scale are beyond what float32 holds."""
    farthest = max((abs(float(end(values)) - levels.black) for end in (np.min, np.max) if values.size), default=0.0)
    if farthest > BRIGHTEST * (levels.white - levels.black):
        span = f"{levels.white:g} with black at {levels.black:g}"
        raise OptionError(f"--white: {span} is too small a range for values up to {np.max(values):g}.")


def _raw(source: Source) -> tuple[Picture | None, NDArray[Any] | None, float]:
    """Return a picture, or the numbers of a file or array that are scaled by the levels alone; and the value of its white."""
    path = source.path
    values: NDArray[Any] | None = None
    if path is not None and path.suffix.lower() in (".tif", ".tiff") and path.is_file():
        decoded = decode(path, page=source.page).values
        values = decoded.transpose(2, 0, 1) if decoded.dtype.kind in "fi" else None
    elif (path is not None and path.suffix.lower() == ".npy") or hasattr(source.value, "__array__"):
        is_image = path is None and hasattr(source.value, "getbands")  # of Pillow
        values = None if is_image else source.arrays("pixels")["pixels"]
    if values is None:
        picture = source.picture()
        return picture, None, float(2**picture.bits - 1)
    numbers: NDArray[Any] = values[0] if values.ndim == 4 and len(values) == 1 else values
    dtype: np.dtype[Any] = numbers.dtype
    unsigned = dtype.kind == "u" and dtype.itemsize <= 2
    return None, numbers, 2.0 ** (8 * dtype.itemsize) - 1 if unsigned else 1.0


def dark_notes(picture: Picture) -> tuple[str, ...]:
    """Return a note on a picture of floats that is nearly black."""
    brightest = (float(picture.pixels.max()) + 1) / 2
    if picture.bits != 16 or not 0 < brightest < DARK:
        return ()
    return (f"INPUT is nearly black: its values reach {brightest:.3g}, and 1 is white; set it with --white",)


def fewer_bits(picture: Picture) -> int | None:
    """Return how many bits the integers of a picture of 16 bits need, if they are at most 14; ``None`` for other pictures.

    Cameras and microscopes write integers of 10, 12 or 14 bits, from 0, into files of 16.
    """
    brightest = (float(picture.pixels.max()) + 1) / 2
    if picture.bits != 16 or not 0 < brightest < DARK:
        return None
    values = (picture.pixels + 1) / 2 * 65535
    if np.abs(values - np.rint(values)).max() > 1e-3:
        return None
    largest = round(brightest * 65535)
    return next(bits for bits in BITS if largest < 2**bits)


def check_range(pixels: Tensor, noise: Noise | None, where: str) -> None:
    """Raise an error if a picture on the 0..1 scale has more values below 0 than its noise explains.

    Args:
        pixels: Pixels spanning [-1, 1].
        noise: The noise, in the same units.
        where: Name of the picture in errors.
    """
    sigma = 0.0 if noise is None else noise.sigma / 2
    unit, limit = (pixels + 1) / 2, -(BELOW * sigma + RINGING)
    heavy = noise is not None and noise.heavy_tailed
    near = -(sigma + RINGING)
    nearer, share, farther = (float((unit < bound).double().mean()) for bound in (near, limit, 2 * limit))
    too_many = nearer > NEARER_SHARE or farther > FARTHER_SHARE
    if share > (HEAVY_SHARE if heavy else SHARE) or (too_many and not heavy):
        raise ValueError(
            f"{where}: {nearer:.1%} of the values are below {near:.2g}, and {share:.1%} below {limit:.2g}, down to "
            f"{float(unit.min()):.3g}, which noise does not explain, where 0 is black and 1 is white. Give the levels of "
            "the file; if it spans [-1, 1], --black -1 --white 1."
        )
