"""Checks of constructor arguments that several operators share. Error messages give the expected and the actual value."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "event_shape",
    "image_shape",
    "odd_size",
    "real_array",
    "real_matrix",
    "sides_in_words",
    "volume_shape",
    "whole_number",
]


def event_shape(owner: str, in_shape: Sequence[int]) -> tuple[int, ...]:
    """Return ``in_shape`` as a tuple of positive integers."""
    try:
        shape = tuple(operator.index(side) for side in in_shape)
    except TypeError:
        raise TypeError(f"{owner}: in_shape must be a sequence of integers, got {in_shape!r}.") from None
    if not shape or min(shape) < 1:
        raise ValueError(f"{owner}: in_shape must hold positive integers, without the batch axis, got {shape}.")
    return shape


def whole_number(owner: str, name: str, value: SupportsIndex, *, least: int = 1) -> int:
    """Return an integer of any type, also of numpy, as an ``int`` of at least ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{owner}: {name} must be an integer, got {value!r}.") from None
    if number < least:
        raise ValueError(f"{owner}: {name} must be at least {least}, got {number}.")
    return number


def odd_size(owner: str, size: SupportsIndex, *, least: int = 1) -> int:
    """Return the side of a kernel that has a center pixel."""
    side = operator.index(size) if isinstance(size, SupportsIndex) else 0
    if side < least or side % 2 == 0:
        what = "a positive odd integer" if least == 1 else f"an odd integer of at least {least}"
        raise ValueError(f"{owner}: size must be {what}, so that it has a center pixel, got {size!r}.")
    return side


def image_shape(owner: str, in_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return ``in_shape`` as ``(C, H, W)``."""
    shape = event_shape(owner, in_shape)
    if len(shape) != 3:
        raise ValueError(f"{owner}: in_shape must be (C, H, W), without the batch axis, got {shape}.")
    channels, height, width = shape
    return channels, height, width


def volume_shape(owner: str, in_shape: Sequence[int]) -> tuple[int, ...]:
    """Return ``in_shape`` as ``(C, H, W)`` or ``(C, D, H, W)``."""
    shape = event_shape(owner, in_shape)
    if len(shape) not in (3, 4):
        raise ValueError(
            f"{owner}: in_shape must be (C, H, W), or (C, D, H, W) of a volume, without the batch axis, got {shape}."
        )
    return shape


def sides_in_words(sides: Sequence[int]) -> str:
    """Return the sides of an image or a volume with their names, for messages."""
    names = ("depth", "height", "width")[-len(sides) :]
    return ", ".join(f"{name} {side}" for name, side in zip(names, sides, strict=True))


def real_matrix(owner: str, name: str, value: Tensor | np.ndarray) -> Tensor:
    """Return a float64 copy of a finite, real, two-dimensional ``value`` that is not empty."""
    return real_array(owner, name, value, axes=2)


def real_array(owner: str, name: str, value: Tensor | np.ndarray, *, axes: int) -> Tensor:
    """Return a float64 copy of a finite, real ``value`` of two or three axes that is not empty."""
    if isinstance(value, np.ndarray):  # torch accepts neither negative strides nor a foreign byte order.
        value = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
    given = torch.as_tensor(value)
    if given.is_complex():
        raise TypeError(f"{owner}: {name} must be real, got {given.dtype}. Stack the real and imaginary parts as rows.")
    if given.ndim != axes or not given.numel():
        count = {2: "two", 3: "three"}[axes]
        raise ValueError(f"{owner}: {name} must be {count}-dimensional and not empty, got shape {tuple(given.shape)}.")
    matrix = given.to(torch.float64, copy=True)
    if not matrix.isfinite().all():
        bad = int((~matrix.isfinite()).sum())
        raise ValueError(f"{owner}: {name} must be finite, got {bad} NaN or infinite values of {matrix.numel()}.")
    return matrix
