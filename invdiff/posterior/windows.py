"""Windows of an image around what a measurement leaves unknown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from invdiff.priors.score_model import Reach

__all__ = ["Window", "find_windows"]

Numbers = NDArray[np.int32]
Boxes = NDArray[np.int64]  # (count, 4): top, left, bottom, right; bottom and right are exclusive

LARGEST = 512  # Side of a window in pixels beyond which windows are not merged.
THICK = 64  # Radius of a region in pixels up to which it may be divided.
LONG = 256  # Side from which it is divided, and of its pieces.
PIECE = 128  # Side of the pieces of a region as thin as scratches are.
FEW = 300  # Regions beyond which small ones are not examined one by one: scattered pixels.
SCATTERED = 128  # Side of the squares in which they are then taken together.
FIXED = 32**2  # Cost of a window besides its area, in pixels.
WHOLE = 2**19  # Pixels up to which an image is computed whole, if that costs no more than windows.


@dataclass(frozen=True, eq=False)
class Window:
    """A rectangle of an image, and the missing pixels that it fills in.

    Attributes:
        top: First row.
        left: First column.
        height: Number of rows.
        width: Number of columns.
        fills: True at the missing pixels whose values are taken from this window, ``(height, width)``. Every missing pixel
            belongs to one window; others that lie in it are computed too, and discarded.
    """

    top: int
    left: int
    height: int
    width: int
    fills: NDArray[np.bool_]

    @property
    def corner(self) -> tuple[int, int]:
        """First row and column."""
        return self.top, self.left

    @property
    def sides(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.height, self.width

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    @property
    def box(self) -> tuple[slice, slice]:
        """The rows and columns, to index the last two axes of images."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def find_windows(missing: NDArray[np.bool_], reach: Reach) -> list[Window]:
    r"""Return windows that cover the missing pixels and what the prior must see around them.

    Around the bounding box of a region of missing pixels lies a margin of :attr:`~invdiff.priors.Reach.context` pixels, and of
    the radius of the largest disc inside the region if that is more. Regions are merged where one window is cheaper than
    two. Long thin regions, such as scratches, are divided; the parts of neighboring windows fit together because both see the
    surroundings and have the same noise. Windows begin and end at multiples of the stride of the prior, or at the border.

    If a small image would be computed several times over, the result is one window that is the whole image.

    Args:
        missing: True at missing pixels, ``(H, W)``.
        reach: How far the prior looks.
    """
    size = missing.shape[0], missing.shape[1]
    pieces, boxes, radii = _pieces(missing)
    if not len(boxes):
        return []
    margins = np.maximum(reach.context, np.ceil(radii)).astype(np.int64)
    group, boxes, margins = _merge(boxes, margins, size, reach)
    windows = _grown(boxes, margins, size, reach)
    if _costs(windows).sum() >= size[0] * size[1] and size[0] * size[1] <= WHOLE:
        return [Window(0, 0, missing.shape[0], missing.shape[1], missing)]
    owner = np.concatenate([[-1], group])[pieces]
    found = []
    for k, (top, left, bottom, right) in enumerate(windows.tolist()):
        fills = owner[top:bottom, left:right] == k
        found.append(Window(top, left, bottom - top, right - left, fills))
    return found


def _pieces(missing: NDArray[np.bool_]) -> tuple[Numbers, Boxes, NDArray[np.float64]]:
    """Return the missing pixels as numbered pieces, 0 at the others, with the bounding box and the radius of each piece."""
    regions = np.zeros(missing.shape, np.int32)
    count = scipy.ndimage.label(missing, np.ones((3, 3)), output=regions)
    pieces, radius = np.zeros_like(regions), dict[int, float]()
    squares, last = _squares(missing.shape, SCATTERED), 0
    if count > FEW:  # The first numbers are those of the squares.
        last = int(squares[-1, -1])
    for number, box in enumerate(scipy.ndimage.find_objects(regions), start=1):
        inside = regions[box] == number
        if count > FEW and max(inside.shape) <= SCATTERED:
            place = int(squares[box[0].start, box[1].start])
            pieces[box][inside] = place
            radius[place] = max(radius.get(place, 0.0), min(inside.shape) / 2)
            continue
        thickness = float(scipy.ndimage.distance_transform_edt(np.pad(inside, 1)).max())
        divided = max(inside.shape) > LONG and thickness <= THICK
        side = PIECE if thickness <= PIECE / 8 else LONG
        parts = _squares(inside.shape, side) if divided else np.ones_like(regions[box])
        pieces[box][inside] = (last + parts)[inside]
        radius |= dict.fromkeys(range(last + 1, last + 1 + int(parts.max())), thickness)
        last += int(parts.max())
    pieces, there = _renumbered(pieces, missing)
    return pieces, _boxes(pieces), np.array([radius[number] for number in there.tolist()])


def _squares(shape: tuple[int, ...], side: int) -> Numbers:
    """Return the numbers, from 1, of the squares in which the pixels of an image lie."""
    rows, columns = (np.arange(n) // side for n in shape)
    numbers: Numbers = (1 + rows[:, None] * (columns[-1] + 1) + columns).astype(np.int32)
    return numbers


def _renumbered(pieces: Numbers, missing: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """Return the pieces numbered from 1 without gaps, 0 where nothing is missing, and their old numbers."""
    there, inverse = np.unique(pieces[missing], return_inverse=True)
    numbers = np.zeros_like(pieces)
    numbers[missing] = inverse + 1
    return numbers, there


def _boxes(pieces: Numbers) -> Boxes:
    """Return the bounding boxes of numbered pieces."""
    found = scipy.ndimage.find_objects(pieces)
    boxes = [(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in found]
    return np.array(boxes, dtype=np.int64).reshape(-1, 4)


def _merge(
    boxes: Boxes, margins: NDArray[np.int64], size: tuple[int, int], reach: Reach
) -> tuple[NDArray[np.int64], Boxes, NDArray[np.int64]]:
    """Merge boxes while one window is cheaper than two. Return the number of the merged box of each box, and those boxes."""
    group = np.arange(len(boxes))
    changed = True
    while changed:
        changed = False
        k = 0
        while k < len(boxes):
            best = _partner(k, boxes, margins, size, reach)
            if best is None:
                k += 1
                continue
            boxes[k], margins[k] = _together(boxes[k], boxes[best]), max(margins[k], margins[best])
            group[group == best] = k
            group[group > best] -= 1
            boxes, margins = np.delete(boxes, best, 0), np.delete(margins, best)
            k -= best < k
            changed = True
    return group, boxes, margins


def _partner(k: int, boxes: Boxes, margins: NDArray[np.int64], size: tuple[int, int], reach: Reach) -> int | None:
    """Return the box that is merged with box ``k`` at the greatest saving, if there is one."""
    windows = _grown(boxes, margins, size, reach)
    merged = _grown(_together(boxes[k], boxes), np.maximum(margins[k], margins), size, reach)
    costs, sides = _costs(windows), (merged[:, 2:] - merged[:, :2]).max(1)
    largest = np.maximum((windows[:, 2:] - windows[:, :2]).max(1), (windows[k, 2:] - windows[k, :2]).max())
    saving = np.where(sides <= np.maximum(LARGEST, largest), costs + costs[k] - _costs(merged), -1)
    saving[k] = -1
    best = int(saving.argmax())
    return best if saving[best] >= 0 else None


def _together(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the smallest box that contains two boxes, with the last axis (top, left, bottom, right)."""
    return np.concatenate([np.minimum(one[..., :2], other[..., :2]), np.maximum(one[..., 2:], other[..., 2:])], -1)


def _grown(boxes: Boxes, margins: NDArray[np.int64], size: tuple[int, int], reach: Reach) -> Boxes:
    """Return the boxes with their margins, extended to multiples of the stride and to the least side."""
    stride, sides = reach.stride, np.array(size)
    first = (boxes[:, :2] - margins[:, None]) // stride * stride
    last = -(-(boxes[:, 2:] + margins[:, None]) // stride) * stride
    short = np.maximum(reach.least - (last - first), 0)
    first, last = first - short // 2 // stride * stride, last + -(-(short - short // 2) // stride) * stride
    # At a border a window keeps its least side, by reaching further into the image.
    last = np.maximum(last, np.minimum(reach.least, sides))
    first = np.minimum(first, np.maximum(sides - reach.least, 0) // stride * stride)
    return np.concatenate([np.maximum(first, 0), np.minimum(last, sides)], 1)


def _costs(windows: Boxes) -> NDArray[np.int64]:
    costs: NDArray[np.int64] = (windows[:, 2:] - windows[:, :2]).prod(1) + FIXED
    return costs
