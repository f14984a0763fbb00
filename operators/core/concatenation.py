"""How the measurements of several operators lie in one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Concatenation"]


@dataclass(frozen=True)
class Concatenation:
    """Tensors concatenated item by item.

    Attributes:
        shapes: Shapes of the parts, without the batch axis.
        axis: The axis of these shapes along which they are concatenated; ``None``: they are flattened to one vector.
    """

    shapes: tuple[tuple[int, ...], ...]
    axis: int | None = None

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the concatenation of the parts, each ``(B, *shape)``."""
        if self.axis is None:
            return torch.cat([part.flatten(1) for part in parts], 1)
        return torch.cat(list(parts), self.axis + 1)

    def split(self, whole: Tensor) -> list[Tensor]:
        """Return the parts of ``whole``."""
        if self.axis is None:
            parts = whole.split_with_sizes([math.prod(shape) for shape in self.shapes], 1)
            return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return list(whole.split_with_sizes([shape[self.axis] for shape in self.shapes], self.axis + 1))
