"""Boundary conditions of a blur."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import scipy
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BOUNDARIES", "SCIPY_MODES", "Border"]

BOUNDARIES = ("circular", "reflect", "zero", "symmetric", "replicate", "valid")

# Their names in scipy.ndimage. For valid any mode will do, because valid pixels do not depend on it.
SCIPY_MODES: dict[str, Literal["wrap", "mirror", "constant", "reflect", "nearest"]] = {
    "circular": "wrap",
    "reflect": "mirror",
    "zero": "constant",
    "symmetric": "reflect",
    "replicate": "nearest",
    "valid": "constant",
}


class Border:
    r"""Embedding of an image in a torus, on which a blur with any boundary condition is a circular convolution.

    .. math:: A = C\, T\, P

    :math:`P` (``extend``) maps the image to the torus, :math:`T` is any convolution with a kernel of the given size and the
    center :math:`(\lfloor h / 2 \rfloor, \lfloor w / 2 \rfloor)`, and :math:`C` (``crop``) maps the torus to the measurement.
    Pixels affected by wrap-around are cropped. The sides of the torus are rounded up to sizes with fast Fourier transforms,
    unless the image is periodic. Volumes are treated likewise, along each of their axes.

    Args:
        boundary: One of ``BOUNDARIES``.
        image: Height and width of the image, or depth, height and width of the volume.
        kernel: The sides of the kernel, not larger than those of the image.

    Attributes:
        torus: The sides of the torus.
        out: The sides of the measurement.
    """

    def __init__(self, boundary: str, image: Sequence[int], kernel: Sequence[int]) -> None:
        self.boundary, self.image = boundary, tuple(image)
        self.axes = range(-len(self.image), 0)
        # The kernel reaches size - 1 - c pixels before the first one and c beyond the last.
        self.reach = tuple(((size - 1) // 2, size // 2) for size in kernel)
        self.continued = boundary in ("reflect", "symmetric", "replicate")
        margins = [sum(reach) if self.continued else max(reach) if boundary == "zero" else 0 for reach in self.reach]
        sides = tuple(side + margin for side, margin in zip(image, margins, strict=True))
        self.torus = sides if boundary == "circular" else tuple(scipy.fft.next_fast_len(side, real=True) for side in sides)
        lost = [sum(reach) if boundary == "valid" else 0 for reach in self.reach]
        self.out = tuple(side - less for side, less in zip(image, lost, strict=True))
        # Position of the measurement on the torus. At 0 the image begins, or its continuation.
        self.corner = tuple(before if self.continued or boundary == "valid" else 0 for before, _ in self.reach)

    def extend(self, x: Tensor) -> Tensor:
        """Return ``x`` of shape ``(..., H, W)`` on the torus, continued beyond its border by the boundary condition."""
        if self.continued:
            for axis in reversed(self.axes):
                x = self._continue(x, axis)
        return _grow(x, self.torus)

    def fold(self, x: Tensor) -> Tensor:
        """Apply the adjoint of ``extend``. It adds slices, because scattered sums are not reproducible on a GPU."""
        for axis in self.axes:
            x = self._fold(x, axis) if self.continued else x.narrow(axis, 0, self.image[axis])
        return x

    def crop(self, x: Tensor) -> Tensor:
        """Return the measured part of ``x`` on the torus."""
        for axis in self.axes:
            x = x.narrow(axis, self.corner[axis], self.out[axis])
        return x

    def embed(self, y: Tensor) -> Tensor:
        """Apply the adjoint of ``crop``."""
        return _grow(y, self.torus, self.corner)

    def _continue(self, x: Tensor, axis: int) -> Tensor:
        side, (before, after) = self.image[axis], self.reach[axis]
        if self.boundary == "replicate":
            head, tail = (x.narrow(axis, i, 1).repeat_interleave(n, axis) for i, n in ((0, before), (side - 1, after)))
        else:
            skip = int(self.boundary == "reflect")
            head, tail = x.narrow(axis, skip, before).flip(axis), x.narrow(axis, side - after - skip, after).flip(axis)
        return torch.cat([head, x, tail], axis)

    def _fold(self, x: Tensor, axis: int) -> Tensor:
        side, (before, after) = self.image[axis], self.reach[axis]
        head, tail = x.narrow(axis, 0, before), x.narrow(axis, before + side, after)
        folded = x.narrow(axis, before, side).clone()
        if self.boundary == "replicate":
            folded.narrow(axis, 0, 1).add_(head.sum(axis, keepdim=True))
            folded.narrow(axis, side - 1, 1).add_(tail.sum(axis, keepdim=True))
        else:
            skip = int(self.boundary == "reflect")
            folded.narrow(axis, skip, before).add_(head.flip(axis))
            folded.narrow(axis, side - after - skip, after).add_(tail.flip(axis))
        return folded


def _grow(x: Tensor, sides: tuple[int, ...], corner: tuple[int, ...] | None = None) -> Tensor:
    before = corner or (0,) * len(sides)
    after = [side - own - first for side, own, first in zip(sides, x.shape[-len(sides) :], before, strict=True)]
    margins = [n for pair in zip(before[::-1], after[::-1], strict=True) for n in pair]
    return F.pad(x, margins) if any(margins) else x
