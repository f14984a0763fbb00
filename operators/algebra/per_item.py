"""A separate operator for each item of a batch."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import overload

import torch
from torch import Tensor

from ..core.noise import Noise
from ..core.operator import LinearOperator, Operator
from .combination import Combination, Part

__all__ = ["LinearPerItem", "NonlinearPerItem", "PerItem", "distribute", "per_item"]


@overload
def per_item(ops: Sequence[LinearOperator]) -> LinearOperator: ...
@overload
def per_item(ops: Sequence[Operator]) -> Operator: ...
def per_item(ops: Sequence[Operator]) -> Operator:
    r"""Return the measurement of a batch with a separate operator for each item; linear if all are.

    .. math:: y_b = A_b(x_b) + n_b

    The result only takes batches of ``len(ops)`` items; ``op.take(rows)`` is the operator for other rows. Items that share
    the same operator object are computed together, the others one after the other.

    Args:
        ops: The operators of the items, at least one. All or none must be linear, with the same shapes and the same noise.

    Raises:
        TypeError: If one of them is not an operator.
        ValueError: If there is none, if they differ in shapes, noise or linearity, or if one has separate operators for its
            items already.
    """
    if not ops:
        raise ValueError("per_item: expected an operator for each item of the batch, got none.")
    for b, op in enumerate(ops):
        if not isinstance(op, Operator):
            raise TypeError(f"per_item: expected operators, got {type(op).__name__} for item {b}.")
        if op.items is not None:
            raise ValueError(
                f"per_item: {type(op).__name__} of item {b} already has separate operators for {op.items} items. "
                "Give the operators of the single items."
            )
        for what, one, other in (
            ("in_shape", ops[0].in_shape, op.in_shape),
            ("out_shape", ops[0].out_shape, op.out_shape),
            ("linearity", _linearity(ops[0]), _linearity(op)),
        ):
            if one != other:
                raise ValueError(
                    f"per_item: all operators must have the same {what}, got {one} for {type(ops[0]).__name__} of item 0 and "
                    f"{other} for {type(op).__name__} of item {b}. Run them separately."
                )
        if not _same_noise(ops[0].noise, op.noise):
            raise ValueError(
                f"per_item: all operators must have the same noise, got {ops[0].noise!r} for item 0 and {op.noise!r} for item "
                f"{b}. Run them separately, or give all of them the same noise object."
            )
    groups: dict[int, list[int]] = {}
    for b, op in enumerate(ops):
        groups.setdefault(id(op), []).append(b)
    return _gather([ops[rows[0]] for rows in groups.values()], list(groups.values()))


def distribute(build: Callable[..., Operator], *ops: Operator) -> Operator:
    """Apply ``build`` to the operators of each item, where some of ``ops`` have a separate operator for each item.

    So the result for each item has the structure, the closed forms and the noise of that item's operators.

    Raises:
        ValueError: If the operators belong to different numbers of items.
    """
    counts = sorted({op.items for op in ops if op.items is not None})
    if len(counts) > 1:
        raise ValueError(f"Operators per item must agree in the batch size, got {' and '.join(map(str, counts))} items.")
    groups: dict[tuple[int, ...], list[int]] = {}
    for row in range(counts[0]):
        groups.setdefault(tuple(op.owners[row] for op in ops if isinstance(op, PerItem)), []).append(row)
    return _gather([build(*(op.take(rows) for op in ops)) for rows in groups.values()], list(groups.values()))


class PerItem(Combination[Part]):
    """A separate operator for each item of a batch. See :func:`per_item`.

    Args:
        parts: The different operators.
        members: For each of them, the rows of the batch it applies to. Every row appears once.
    """

    def __init__(self, parts: Sequence[Part], members: Sequence[Sequence[int]]) -> None:
        self.members = tuple(map(tuple, members))
        self.order = torch.tensor([row for rows in self.members for row in rows])  # The rows, grouped by part.
        self.inverse = self.order.argsort()
        self.sorted = bool((self.order.diff() > 0).all())
        self.starts = [0, *itertools.accumulate(map(len, self.members))]
        self.places = {row: (i, place) for i, rows in enumerate(self.members) for place, row in enumerate(rows)}
        super().__init__(parts, parts[0].in_shape, parts[0].out_shape, parts[0].noise)

    @property
    def noise(self) -> Noise:
        """The noise of every item. It is stored in the parts, so that ``take`` keeps it."""
        return self.parts[0].noise

    @noise.setter
    def noise(self, noise: Noise) -> None:
        self.parts = tuple(part if part.noise is noise else _with_noise(part, noise) for part in self.parts)

    @property
    def items(self) -> int:
        return len(self.order)

    @property
    def owners(self) -> list[int]:
        """Index of the part of every row."""
        return [self.places[row][0] for row in range(self.items)]

    @property
    def distinct(self) -> list[Operator]:
        return [part.take([0]) for part in self.parts]

    @property
    def complete(self) -> bool:
        return all(part.complete for part in self.parts)

    @property
    def dof(self) -> int | Tensor:
        each = [torch.as_tensor(part.dof).expand(len(rows)) for part, rows in zip(self.parts, self.members, strict=True)]
        values = torch.cat(each)[[self.starts[i] + place for i, place in (self.places[row] for row in range(self.items))]]
        return int(values[0]) if (values == values[0]).all() else values.to(self.order.device)

    def take(self, rows: Sequence[int]) -> Operator:
        places, groups = self.places, dict[int, list[int]]()
        if not len(rows) or not places.keys() >= set(rows):
            raise ValueError(f"take: expected rows from 0 to {self.items - 1}, at least one, got {list(rows)}.")
        for new, row in enumerate(rows):
            groups.setdefault(places[row][0], []).append(new)
        parts = [self.parts[i].take([places[rows[new]][1] for new in news]) for i, news in groups.items()]
        return parts[0] if len(parts) == 1 else _gather(parts, list(groups.values()))

    def forward(self, x: Tensor) -> Tensor:
        return self._each(lambda part, x_b: part.forward(x_b), x)

    @property
    def formula(self) -> str:
        return f"{self.items} items by {self._names(', ')}"

    def keep_measured(self, y: Tensor) -> Tensor:
        return y if self.complete else self._each(lambda part, y_b: part.keep_measured(y_b), y)

    def _each(self, function: Callable[..., Tensor], v: Tensor, *others: Tensor | float) -> Tensor:
        """Return ``function(part, rows of v, ...)`` for all parts, with the rows in their original order."""
        self._check(v)
        pieces = zip(self.parts, *(self._split(value) for value in (v, *others)), strict=True)
        whole = torch.cat([function(part, *piece) for part, *piece in pieces])
        return whole if self.sorted else whole[self.inverse.to(whole.device)]

    @overload
    def _split(self, value: Tensor) -> Sequence[Tensor]: ...
    @overload
    def _split(self, value: Tensor | float) -> Sequence[Tensor | float]: ...
    def _split(self, value: Tensor | float) -> Sequence[Tensor | float]:
        """Return the rows of ``value`` for every part; a value that all items share is repeated."""
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) == 1:
            return [value] * len(self.parts)
        ordered = value if self.sorted else value[self.order.to(value.device)]
        return ordered.split_with_sizes([len(rows) for rows in self.members])

    def _check(self, v: Tensor) -> None:
        if len(v) != self.items:
            raise ValueError(
                f"per_item: expected a batch of {self.items} items, one per operator, got {len(v)}. "
                "Give a batch of that size, or use the operator for these rows: op.take(rows)."
            )


class NonlinearPerItem(PerItem[Operator]):
    r"""A nonlinear :class:`PerItem`."""

    def jacobian(self, x: Tensor) -> LinearOperator:
        self._check(x)
        pairs = zip(self.parts, self._split(x), strict=True)
        jacobian = LinearPerItem([part.jacobian(x_b) for part, x_b in pairs], self.members)
        jacobian.order, jacobian.inverse = self.order, self.inverse  # These have been moved with the operator.
        return jacobian


class LinearPerItem(LinearOperator, PerItem[LinearOperator]):
    r"""A linear :class:`PerItem`. Every method uses the closed forms of each item's operator.

    Args:
        parts: The different operators.
        members: For each of them, the rows of the batch it applies to. Every row appears once.
    """

    def __init__(self, parts: Sequence[LinearOperator], members: Sequence[Sequence[int]]) -> None:
        super().__init__(parts, members)
        self.closed_form = all(part.closed_form for part in parts)
        self.gram_scale = parts[0].gram_scale if len({part.gram_scale for part in parts}) == 1 else None

    @property
    def T(self) -> LinearOperator:  # noqa: N802
        return self.map(lambda part, rows: part.T)

    def map(self, function: Callable[[LinearOperator, list[int]], LinearOperator]) -> LinearPerItem:
        """Replace every part by ``function(part, rows of the part)``."""
        pairs = zip(self.parts, self.members, strict=True)
        mapped = LinearPerItem([function(part, list(rows)) for part, rows in pairs], self.members)
        mapped.order, mapped.inverse = self.order, self.inverse
        return mapped

    def adjoint(self, y: Tensor) -> Tensor:
        return self._each(lambda part, y_b: part.adjoint(y_b), y)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self._each(lambda part, v_b, lam_b: part.solve(v_b, lam_b), v, lam)

    def pinv(self, y: Tensor) -> Tensor:
        return self._each(lambda part, y_b: part.pinv(y_b), y)

    def prox(self, z: Tensor, y: Tensor, rho: Tensor | float) -> Tensor:
        return self._each(lambda part, z_b, y_b, rho_b: part.prox(z_b, y_b, rho_b), z, y, rho)

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self._each(lambda part, v_b, lam_b: part.precondition(v_b, lam_b), v, lam)


def _gather(parts: Sequence[Operator], members: Sequence[Sequence[int]]) -> Operator:
    linear = [part for part in parts if isinstance(part, LinearOperator)]
    return LinearPerItem(linear, members) if len(linear) == len(parts) else NonlinearPerItem(parts, members)


def _linearity(op: Operator) -> str:
    return "linear" if isinstance(op, LinearOperator) else "not linear"


def _with_noise(op: Part, noise: Noise) -> Part:
    noisy = copy.copy(op)
    noisy.noise = noise
    return noisy


def _same_noise(one: Noise, other: Noise) -> bool:
    """Return whether two noise models are the same object, or of the same type with equal parameters."""
    if one is other:
        return True
    if type(one) is not type(other) or vars(one).keys() != vars(other).keys():
        return False
    pairs = [(value, vars(other)[name]) for name, value in vars(one).items()]
    return all(torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b or a == b for a, b in pairs)
