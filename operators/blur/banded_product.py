"""Products with banded matrices, tile by tile, for separable blur and resizing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from invdiff.movable import Movable

from ..core.autograd import with_adjoint

__all__ = ["SeparableProduct"]

TILE = 64  # Rows per tile. On a CPU 32 and 64 were the fastest of 32 to 256, for 256 to 1024 pixels and 9 to 61 taps.

Tiles = list[tuple[slice, list[slice]]]  # Rows, and the ranges of columns outside of which they are zero.


class SeparableProduct(Movable):
    r"""The map :math:`x \mapsto L x R^\top`, faster if the rows of the matrices are zero except for a few neighboring columns.

    On a GPU, or if tiles would not save half of the work, the full matrices are multiplied.

    Args:
        left: :math:`L`, shape ``(P, H)``.
        right: :math:`R`, shape ``(Q, W)``.
    """

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left, self.right = left, right
        self.tiles = _tiles(left), _tiles(right)
        self.transposed = _tiles(left.mT), _tiles(right.mT)

    def forward(self, x: Tensor) -> Tensor:
        """Return the product: ``(..., H, W)`` to ``(..., P, Q)``, in the dtype and on the device of ``x``."""
        return with_adjoint(x, self._forward, self._adjoint)

    def adjoint(self, y: Tensor) -> Tensor:
        r"""Return :math:`L^\top y R`: ``(..., P, Q)`` to ``(..., H, W)``."""
        return with_adjoint(y, self._adjoint, self._forward)

    def _forward(self, x: Tensor) -> Tensor:
        return _from_right(self.right, self.tiles[1], _from_left(self.left, self.tiles[0], x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return _from_right(self.right.mT, self.transposed[1], _from_left(self.left.mT, self.transposed[0], y))


def _from_left(matrix: Tensor, tiles: Tiles | None, x: Tensor) -> Tensor:
    if tiles is None or x.is_cuda:
        return matrix.to(x) @ x
    return torch.cat([_sum([matrix[rows, run].to(x) @ x[..., run, :] for run in runs]) for rows, runs in tiles], -2)


def _from_right(matrix: Tensor, tiles: Tiles | None, x: Tensor) -> Tensor:
    if tiles is None or x.is_cuda:
        return x @ matrix.to(x).mT
    return torch.cat([_sum([x[..., run] @ matrix[rows, run].to(x).mT for run in runs]) for rows, runs in tiles], -1)


def _sum(products: Sequence[Tensor]) -> Tensor:
    total = products[0]
    for product in products[1:]:
        total = total + product
    return total


def _tiles(matrix: Tensor) -> Tiles | None:
    """Return the tiles of a matrix, or None if they would not save half of the work."""
    tiles, work = [], 0
    for start in range(0, len(matrix), TILE):
        rows = slice(start, min(start + TILE, len(matrix)))
        used = np.flatnonzero((matrix[rows] != 0).any(0).numpy(force=True))
        # Two ranges if a row wraps around. A row of zeros gets one column, because an empty product has no shape.
        groups = np.split(used, np.flatnonzero(np.diff(used) > TILE) + 1) if len(used) else [np.zeros(1, dtype=int)]
        runs = [slice(int(group[0]), int(group[-1]) + 1) for group in groups]
        work += sum((rows.stop - rows.start) * (run.stop - run.start) for run in runs)
        tiles.append((rows, runs))
    return tiles if 2 * work <= matrix.numel() else None
