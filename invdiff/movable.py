"""Moving objects that hold tensors, such as operators and their decompositions, to another device or dtype."""

from __future__ import annotations

import copy
from typing import Self, TypeVar

import torch
from torch import Tensor

__all__ = ["Movable", "moved_copy"]

T = TypeVar("T")


class Movable:
    """An object whose tensors are its own attributes, or those of attributes, or of entries of tuples, that are movable too."""

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Return a copy with tensors on ``device``: real ones in ``dtype``, complex ones in the matching complex dtype."""
        return moved_copy(self, device, dtype)


def moved_copy(given: T, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> T:
    """Return a copy of any object with its tensors moved, as :meth:`Movable.to` does."""
    moved = copy.copy(given)
    for name, value in vars(given).items():
        if isinstance(value, Movable):
            setattr(moved, name, value.to(device, dtype))
        elif isinstance(value, tuple) and any(isinstance(part, Movable) for part in value):
            setattr(moved, name, tuple(part.to(device, dtype) if isinstance(part, Movable) else part for part in value))
        elif isinstance(value, Tensor):
            value = value.clone() if value.is_inference() else value
            wanted = dtype if value.is_floating_point() else None
            if dtype is not None and value.is_complex():
                wanted = dtype.to_complex()
            setattr(moved, name, value.to(device=device, dtype=wanted))
    return moved
