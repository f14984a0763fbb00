"""Base class of objects that can be moved to another device or dtype, such as operators and their decompositions."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor

__all__ = ["Movable"]


class Movable:
    """An object whose tensors are its own attributes, or those of attributes, or of entries of tuples, that are movable too."""

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Return a copy with tensors on ``device``: real ones in ``dtype``, complex ones in the matching complex dtype."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
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
