"""The level of the noise in INPUT: estimated from its pixels, and from what its file says about its rounding."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from invdiff.operators.core.noise_level import noise_level
from invdiff.problems import Given
from invdiff.problems.jpeg_noise import jpeg_noise
from invdiff.restoration.noise import RESOLUTION

__all__ = ["InputNoise", "noise_of_file", "noise_of_pixels"]


@dataclass(frozen=True)
class InputNoise:
    """A noise level that was found.

    Attributes:
        sigma: Standard deviation, in the units of images that span [-1, 1].
        note: What it is and where it comes from, for the user.
        rounded: Whether it is the rounding in a JPEG file: an error that is largest where the picture has fine details, so that
            results may fit the picture far better than white noise of that level would let them.
    """

    sigma: float
    note: str
    rounded: bool = False


def noise_of_pixels(given: Given, *, compressed: bool = False) -> InputNoise:
    """Return the noise level estimated from the pixels of INPUT, by :func:`invdiff.operators.core.noise_level.noise_level`.

    Args:
        given: Problem and measurement.
        compressed: Whether to accept what JPEG compression has left of the noise.

    Raises:
        ValueError: If it cannot be estimated, or if there is none and the problem needs some: the reason alone.
    """
    pixels, alpha = given.problem.noise_pixels(given.y).flatten(0, 1), given.picture.alpha
    known = ~pixels.isnan()
    if alpha is not None and alpha.shape == pixels.shape[1:]:
        known &= torch.from_numpy(alpha > 0)
    found = noise_level(pixels.nan_to_num().double().numpy(), known.numpy(), compressed=compressed)
    step = _step(given)
    sigma, doubt = max(found.sigma, step / math.sqrt(12)), max(found.error, 0.5 * step if found.sigma < step else 0.0)
    if sigma / 2 < RESOLUTION or (given.problem.accepts_noise == "above 0" and found.sigma < step / 4):
        raise ValueError("no noise is found in INPUT")
    after = ", after JPEG compression" if given.picture.format == "JPEG" else ""
    return InputNoise(sigma, f"noise: estimated {sigma / 2:.4f} +- {doubt / 2:.4f} from INPUT, pixels spanning 0..1{after}")


def noise_of_file(given: Given, path: Path | None, *, scale: float = 1.0) -> InputNoise:
    """Return the noise level of INPUT as a file: that of the rounding in a JPEG file, and else the one of its pixels.

    Of a JPEG file it is the larger one of both, since noise that is large against the quantization steps survives. If neither
    is found, it is the rounding to the bits of the file.

    Args:
        given: Problem and measurement.
        path: INPUT, if it is a file.
        scale: Units of images that span [-1, 1] per unit of the pixels of the file, if black and white were given.

    Raises:
        ValueError: If none is found and the problem needs some: the reason alone.
    """
    rounding = None
    if given.picture.format == "JPEG" and path is not None:
        with contextlib.suppress(ValueError):  # a kind of JPEG whose coefficients are not read
            rounding = scale * jpeg_noise(path)
    try:
        found = noise_of_pixels(given, compressed=rounding is not None)
    except ValueError as error:
        if rounding is not None:
            return _of_tables(rounding)
        height, width = given.y.shape[-2:]
        blind = given.problem.kernels((height, width)) is not None  # Too low a level favors wrong kernels.
        if blind or given.problem.accepts_noise == "above 0":
            raise
        sigma = _step(given) / math.sqrt(12)
        return InputNoise(
            sigma,
            f"noise: {sigma / 2:.2g}, the rounding to {given.picture.bits} bits, because it cannot be estimated ({error}). A "
            "photograph has more: give --noise, such as 0.01, if the result has grain or stripes",
        )
    if rounding is None or rounding < found.sigma:
        return found
    return _of_tables(rounding)


def _of_tables(rounding: float) -> InputNoise:
    return InputNoise(rounding, f"noise: {rounding / 2:.4f} from the tables of the JPEG, pixels spanning 0..1", rounded=True)


def _step(given: Given) -> float:
    """Return the rounding step of the pixels of INPUT, in the units of images that span [-1, 1]."""
    return 2.0 / (2.0**given.picture.bits - 1)
