"""One operator applied to every channel or every slice of an item: the copies are rows of its batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor

from ..core.noise import Noise
from ..core.operator import LinearOperator, Operator
from ..core.svd import SVD
from .combination import Combination, Part, name_in_formula

__all__ = ["LinearRepeated", "NonlinearRepeated", "Repeated", "RepeatedSVD"]


class Repeated(Combination[Part]):
    """The same operator for every channel or slice. See :func:`per_channel` and :func:`per_slice`.

    Args:
        op: The operator for one of them.
        count: Their number.
        axis: Their axis in ``x`` and in ``y``, without the batch axis: 0 for channels, where it takes the place of the only
            channel of ``op.in_shape``, and 1 for slices, where it is a new axis.
        noise: The noise of ``y``.
    """

    def __init__(self, op: Part, count: int, axis: int, noise: Noise) -> None:
        shapes = [(*shape[:axis], count, *shape[axis:]) for shape in (op.in_shape, op.out_shape)]
        super().__init__([op], shapes[0] if axis else (count, *op.in_shape[1:]), shapes[1], noise)
        self.count, self.axis = count, axis

    @property
    def op(self) -> Part:
        return self.parts[0]

    @property
    def dof(self) -> int | Tensor:
        return self.count * self.op.dof

    @property
    def items(self) -> int | None:
        return None if self.op.items is None else self.op.items // self.count

    def take(self, rows: Sequence[int]) -> Any:
        if self.items is None:
            return self
        taken, every = copy.copy(self), [self.count * row + c for row in rows for c in range(self.count)]
        taken.parts = (cast(Part, self.op.take(every)),)
        return taken

    @property
    def formula(self) -> str:
        return f"{self.count} {'slices' if self.axis else 'channels'} by {name_in_formula(self.op)}"

    def keep_measured(self, y: Tensor) -> Tensor:
        return self._joined(self.op.keep_measured(self._rows(y)))

    def forward(self, x: Tensor) -> Tensor:
        return self._joined(self.op.forward(self._x_rows(x)))

    def _x_rows(self, x: Tensor) -> Tensor:
        return self._rows(x if self.axis else x.unsqueeze(2))

    def _x_joined(self, rows: Tensor) -> Tensor:
        return self._joined(rows).reshape(-1, *self.in_shape)

    def _rows(self, y: Tensor) -> Tensor:
        return _rows(y, self.axis)

    def _joined(self, rows: Tensor) -> Tensor:
        return _joined(rows, self.count, self.axis)


class NonlinearRepeated(Repeated[Operator]):
    r"""A nonlinear :class:`Repeated`."""

    def jacobian(self, x: Tensor) -> LinearOperator:
        return LinearRepeated(self.op.jacobian(self._x_rows(x)), self.count, self.axis, self.noise)


class LinearRepeated(LinearOperator, Repeated[LinearOperator]):
    r"""A linear :class:`Repeated`, with all closed forms of the repeated operator.

    Args:
        op: The operator for one channel or slice.
        count: Their number.
        axis: Their axis in ``x`` and in ``y``.
        noise: The noise of ``y``.
    """

    def __init__(self, op: LinearOperator, count: int, axis: int, noise: Noise) -> None:
        super().__init__(op, count, axis, noise)
        self.closed_form, self.gram_scale = op.closed_form, op.gram_scale

    def adjoint(self, y: Tensor) -> Tensor:
        return self._x_joined(self.op.adjoint(self._rows(y)))

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self._joined(self.op.solve(self._rows(v), self._repeated(lam)))

    def pinv(self, y: Tensor) -> Tensor:
        return self._x_joined(self.op.pinv(self._rows(y)))

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self._joined(self.op.precondition(self._rows(v), self._repeated(lam)))

    def _repeated(self, lam: Tensor | float) -> Tensor | float:
        if not isinstance(lam, Tensor) or not lam.ndim:
            return lam
        return lam.reshape(-1, *(1,) * len(self.op.out_shape)).repeat_interleave(self.count, 0)

    def _decompose(self) -> SVD | None:
        svd = None if self.per_item else self.op.svd
        return None if svd is None else RepeatedSVD(svd, self.count, self.axis)


class RepeatedSVD(SVD):
    r"""SVD of a repeated operator: that of the operator, channel by channel or slice by slice.

    Coordinates are those of the operator with the channels or slices along their axis; channels are joined with its first axis.

    Args:
        svd: The SVD of the operator.
        count: Number of channels or slices.
        axis: 0 for channels, 1 for slices.
    """

    def __init__(self, svd: SVD, count: int, axis: int) -> None:
        self.svd, self.count, self.axis, self.kind = svd, count, axis, svd.kind
        self._values = self._merged(_joined(svd._values.expand(svd.shape).expand(count, *svd.shape), count, axis))[0]
        self.shape = tuple(self._values.shape)

    def analyze(self, x: Tensor) -> Tensor:
        return self._merged(_joined(self.svd.analyze(self._rows(x)), self.count, self.axis))

    def synthesize(self, x_bar: Tensor) -> Tensor:
        return self._merged(_joined(self.svd.synthesize(self._rows(x_bar)), self.count, self.axis))

    def _rotate(self, y: Tensor) -> Tensor:
        return self._merged(_joined(self.svd._rotate(_rows(y, self.axis)), self.count, self.axis))

    def diagonal(self, values: Tensor) -> Tensor:
        return self._merged(_joined(self.svd.diagonal(self._rows(values)), self.count, self.axis))

    def power(self, values: Tensor) -> Tensor:
        return self._merged(_joined(self.svd.power(self._rows(values)), self.count, self.axis))

    def _rows(self, merged: Tensor) -> Tensor:
        joined = merged if self.axis else merged.reshape(len(merged), self.count, -1, *merged.shape[2:])
        return _rows(joined, self.axis)

    def _merged(self, joined: Tensor) -> Tensor:
        return joined if self.axis else joined.flatten(1, 2)


def _rows(v: Tensor, axis: int) -> Tensor:
    """Return every channel or slice along ``axis`` of the items as a row of the batch, item by item."""
    return v.movedim(1 + axis, 1).flatten(0, 1)


def _joined(rows: Tensor, count: int, axis: int) -> Tensor:
    """Return the items of which ``rows`` are the channels or slices."""
    return rows.reshape(-1, count, *rows.shape[1:]).movedim(1, 1 + axis)
