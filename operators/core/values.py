"""Checks of the values of images and measurements: their type, and their range."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

__all__ = ["check_real", "warn_of_pixels"]

LARGEST = 16.0  # Values of images from which none can be in the range [-1, 1], nor those of latent codes.


def check_real(what: str, values: Tensor) -> None:
    """Raise an error if a tensor does not hold real floating-point numbers.

    Args:
        what: The subject of the message, such as ``"run: y"``.
        values: The tensor.

    Raises:
        TypeError: If it holds integers or truth values.
        ValueError: If it is complex.
    """
    if values.is_floating_point():
        return
    if values.is_complex():
        raise ValueError(
            f"{what} must be real, got {values.dtype}. Give real and imaginary parts as an axis of length 2, as MRI measures "
            "them: torch.view_as_real(...)."
        )
    if values.dtype == torch.bool:
        advice = "Convert it to -1 and 1: 2.0 * x - 1."
    else:
        white = 255 if values.dtype == torch.uint8 else torch.iinfo(values.dtype).max
        advice = f"Images span [-1, 1]: x / {white / 2:g} - 1 for pixels from 0 to {white}, x.float() for other numbers."
    raise TypeError(f"{what} must hold floating-point numbers, got {values.dtype}. {advice}")


def warn_of_pixels(what: str, x: Tensor) -> None:
    """Warn of images that look like pixels from 0 to 255, or to the white of another integer type."""
    if x.ndim == 4 and x.numel() and x.isfinite().all():
        low, high = (float(value) for value in torch.aminmax(x.detach()))
        if low >= 0 and high > LARGEST:
            warnings.warn(
                f"{what} has values from {low:g} to {high:g}, which look like pixels. Images span [-1, 1]: give x / 127.5 - 1 "
                "for pixels from 0 to 255.",
                stacklevel=3,
            )
