"""Moving objects that hold tensors, such as operators and their decompositions, to another device or dtype."""

from __future__ import annotations

import copy
from contextvars import ContextVar
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

__all__ = ["Movable", "moved_copy"]

T = TypeVar("T")
Moved = dict[tuple[int, torch.device | str | None, torch.dtype | None], tuple[Any, Any]]  # each original with its copy

# What the outermost call has moved so far: an object in two places, such as the decomposition of a large operator that its
# parts use too, is copied once.
_moved: ContextVar[Moved | None] = ContextVar("_moved", default=None)


class Movable:
    """An object whose tensors are its own attributes, or those of attributes, or of entries of tuples, that are movable too."""

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Return a copy with tensors on ``device``: real ones in ``dtype``, complex ones in the matching complex dtype.

        Objects and tensors that are shared within this object are shared within the copy.
        """
        return moved_copy(self, device, dtype)


def moved_copy(given: T, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> T:
    """Return a copy of any object with its tensors moved, as :meth:`Movable.to` does."""
    before = _moved.get()
    token = _moved.set({} if before is None else before)
    try:
        moved = copy.copy(given)
        for name, value in vars(given).items():
            if isinstance(value, tuple) and any(isinstance(part, Movable) for part in value):
                setattr(moved, name, tuple(_part(part, device, dtype) for part in value))
            elif isinstance(value, Tensor | Movable):
                setattr(moved, name, _part(value, device, dtype))
        return moved
    finally:
        _moved.reset(token)


def _part(value: Any, device: torch.device | str | None, dtype: torch.dtype | None) -> Any:
    """Return the copy of one attribute; the same one for the same attribute."""
    known = _moved.get()
    assert known is not None
    key = id(value), device, dtype
    if key not in known:
        if isinstance(value, Tensor):
            known[key] = value, _tensor(value, device, dtype)
        else:
            known[key] = value, value.to(device, dtype) if isinstance(value, Movable) else value
    return known[key][1]


def _tensor(value: Tensor, device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor:
    value = value.clone() if value.is_inference() else value
    wanted = dtype if value.is_floating_point() else None
    if dtype is not None and value.is_complex():
        wanted = dtype.to_complex()
    return value.to(device=device, dtype=wanted)
