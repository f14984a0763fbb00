"""The parts of a measured picture in which the kernel is looked for, continued to a torus."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Window", "windows_of"]

LARGER = 1.25  # A picture whose sides are up to this many times those of a window is used as a whole
MULTIPLE = 16  # Sides of a torus are multiples of this, because networks are padded to it


@dataclass(frozen=True, eq=False)
class Window:
    """A part of a measurement, continued to a torus.

    Attributes:
        y: The part and its continuation, ``(1, C, h, w)``.
        counted: 1 for the entries whose likelihood counts, 0 for those of the continuation and beside it, ``(1, 1, h, w)``.
        recorded: Whether an entry was measured, ``(1, 1, h, w)``; the others are the continuation.
    """

    y: Tensor
    counted: Tensor
    recorded: Tensor

    @property
    def values(self) -> int:
        """Number of measured values that count."""
        return int(self.counted.sum()) * self.y.shape[1]


def windows_of(y: Tensor, *, reach: int, boundary: str, factor: int, side: int, count: int) -> list[Window]:
    """Return up to ``count`` windows of a measurement ``(1, C, h, w)``, the one with the strongest edges first.

    A small circular measurement is a torus already. Other parts are continued beyond their border by their mirror images, one
    fading into the other, and entries nearer to the border than ``reach`` do not count.

    Args:
        y: The measurement.
        reach: Half the side of the largest kernel, in entries of ``y``.
        boundary: ``circular`` or ``valid``.
        factor: Factor of decimation, so that ``x`` has ``factor`` times as many entries along each side.
        side: Side of the windows, in pixels of ``x``.
        count: Number of windows, if the measurement is larger than a window.
    """
    height, width = y.shape[-2:]
    largest, side = int(LARGER * side) // factor, max(side // factor, 2 * reach + 8)
    if max(height, width) <= largest and boundary == "circular":
        everywhere = y.new_ones(1, 1, height, width)
        return [Window(y, everywhere, everywhere > 0)]
    sides = (height if height <= largest else min(side, height), width if width <= largest else min(side, width))
    corners = _places(y, sides, count)
    return [_continued(y[..., top : top + sides[0], left : left + sides[1]], reach) for top, left in corners]


def _places(y: Tensor, sides: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """Return the corners of the windows with the most edges in all directions, which do not overlap.

    An edge shows the kernel across it alone. So the measure is the smaller eigenvalue of the structure tensor, the sum of the
    outer products of the gradients; these are divided by their length, so that one bright edge does not decide alone.
    """
    gray = y[0].double().mean(0)
    down, right = torch.zeros_like(gray), torch.zeros_like(gray)
    down[1:], right[:, 1:] = gray.diff(dim=0), gray.diff(dim=1)
    length = (down.square() + right.square()).sqrt().clamp(min=1e-12)
    (h, w), (height, width) = sides, gray.shape

    def within(values: Tensor) -> Tensor:
        """Return the sums over all windows."""
        total = torch.nn.functional.pad(values.cumsum(0).cumsum(1), (1, 0, 1, 0))
        upper, lower = total[: height - h + 1], total[h:]
        return lower[:, w:] - upper[:, w:] - lower[:, : width - w + 1] + upper[:, : width - w + 1]

    across, along, both = (within(a * b / length) for a, b in ((down, down), (right, right), (down, right)))
    inside = (across + along) / 2 - (((across - along) / 2).square() + both.square()).sqrt()
    found: list[tuple[int, int]] = []
    for _ in range(count):
        if not bool((inside > -1).any()):
            break
        top, left = divmod(int(inside.argmax()), inside.shape[1])
        found.append((top, left))
        inside[max(0, top - h + 1) : top + h, max(0, left - w + 1) : left + w] = -1
    return found


def _continued(y: Tensor, reach: int) -> Window:
    height, width = y.shape[-2:]
    if min(height, width) <= 2 * reach:
        raise ValueError(
            f"A measurement of {width} x {height} is too small for kernels that reach {reach} pixels: nothing is left that "
            "does not depend on the border. Use a family of smaller kernels."
        )
    for axis in (-2, -1):
        y = _closed(y, axis, reach)
    counted = y.new_zeros(1, 1, *y.shape[-2:])
    counted[..., reach : height - reach, reach : width - reach] = 1
    recorded = torch.zeros_like(counted, dtype=torch.bool)
    recorded[..., :height, :width] = True
    return Window(y, counted, recorded)


def _closed(y: Tensor, axis: int, reach: int) -> Tensor:
    """Continue ``y`` along an axis, by ``reach`` entries or a few more, so that its end meets its beginning."""
    side = y.shape[axis]
    gap = min(reach + -(side + reach) % MULTIPLE, side)
    end, beginning = (y.narrow(axis, side - gap, gap).flip(axis), y.narrow(axis, 0, gap).flip(axis))
    fading = torch.linspace(0, 1, gap + 2, dtype=y.dtype, device=y.device)[1:-1]
    fading = fading.reshape(-1, 1) if axis == -2 else fading
    return torch.cat([y, (1 - fading) * end + fading * beginning], axis)
