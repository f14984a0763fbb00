r"""The base class of operators with orthonormal rows: selected coordinates of an orthogonal transform."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from invdiff.linalg import over_items

from ..core.autograd import with_adjoint
from ..core.operator import LinearOperator, pseudo_divide
from ..core.svd import SVD

__all__ = ["OrthonormalRows", "SelectionSVD", "selected_indices"]


class SelectionSVD(SVD):
    r"""SVD for selected coordinates of an orthogonal transform: :math:`s = 1` for the selected ones, and 0 for the others.

    Args:
        shape: Shape of the coordinates, ``(groups, n)``. The same coordinates are selected in every group.
        kept: Indices of the selected coordinates, distinct, shape ``(m,)``.
    """

    shape: tuple[int, int]

    def __init__(self, shape: tuple[int, int], kept: Tensor) -> None:
        self.shape, self.kept = shape, kept
        self._values = torch.zeros(shape[1], dtype=torch.float64).index_fill(0, kept, 1.0)

    def select(self, x_bar: Tensor) -> Tensor:
        """Return the selected coordinates: ``(B, groups, n)`` to ``(B, groups, m)``."""
        # Many times faster on a CPU than index_select along the last of more than two axes.
        return x_bar.gather(-1, self._indices(x_bar))

    def scatter(self, y: Tensor) -> Tensor:
        """Apply the adjoint of ``select``: return ``y`` at the selected coordinates and 0 at the others."""
        entries = y.reshape(len(y), self.shape[0], len(self.kept))
        return y.new_zeros(len(y), *self.shape).scatter(-1, self._indices(y), entries)

    def _rotate(self, y: Tensor) -> Tensor:
        return self.scatter(y)

    def _indices(self, like: Tensor) -> Tensor:
        return self.kept.to(like.device).expand(len(like), self.shape[0], -1)


class OrthonormalRows(LinearOperator):
    r"""Selected coordinates of an orthogonal transform: :math:`A A^\top = I` and :math:`A^+ = A^\top`.

    Attributes:
        basis: The transform and the indices of its selected coordinates.
    """

    closed_form = True
    gram_scale = 1.0
    basis: SelectionSVD

    def forward(self, x: Tensor) -> Tensor:
        return with_adjoint(x, self._forward, self._adjoint)

    def adjoint(self, y: Tensor) -> Tensor:
        return with_adjoint(y, self._adjoint, self._forward)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return pseudo_divide(v, v.new_ones(()), over_items(lam, v) if isinstance(lam, Tensor) else lam)

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y)

    def _forward(self, x: Tensor) -> Tensor:
        return self.basis.select(self.basis.analyze(x)).reshape(len(x), *self.out_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.basis.synthesize(self.basis.scatter(y))

    def _decompose(self) -> SVD:
        return self.basis


def selected_indices(owner: str, name: str, indices: Sequence[int] | Tensor, count: int) -> Tensor:
    """Return ``indices`` as a tensor of distinct integers from 0 to ``count - 1``, in the order given, not empty."""
    numbers = indices.tolist() if isinstance(indices, Tensor) else indices
    try:
        chosen = [operator.index(number) for number in numbers]
    except TypeError:
        raise TypeError(f"{owner}: {name} must be a sequence of integers, got {indices!r}.") from None
    if not chosen or min(chosen) < 0 or max(chosen) >= count or len(set(chosen)) < len(chosen):
        found = f"{len(chosen)} values, {len(set(chosen))} distinct, from {min(chosen)} to {max(chosen)}" if chosen else "none"
        raise ValueError(f"{owner}: {name} must be distinct integers from 0 to {count - 1}, got {found}.")
    return torch.tensor(chosen)
