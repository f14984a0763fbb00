"""Several measurements of the same image, concatenated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import overload

import torch
from torch import Tensor

from ..core.noise import GaussianNoise, Noise
from ..core.operator import LinearOperator, Operator
from .combination import Combination, Part, deviations_of, weight_for
from .per_item import PerItem, distribute

__all__ = ["LinearStack", "NonlinearStack", "Stack", "stack"]


@overload
def stack(ops: Sequence[LinearOperator], *, axis: int | None = None) -> LinearOperator: ...
@overload
def stack(ops: Sequence[Operator], *, axis: int | None = None) -> Operator: ...
def stack(ops: Sequence[Operator], *, axis: int | None = None) -> Operator:
    r"""Concatenate the measurements of the same :math:`x` by several operators; linear if all of them are.

    .. math:: y = (A_1(x) + n_1, \; A_2(x) + n_2, \; \dots)

    Args:
        ops: The operators, at least one. Each keeps its own noise level.
        axis: Axis of ``out_shape`` along which ``y`` is concatenated, without the batch axis: 0 is the channel axis of
            images; negative axes count from the end. Default: every measurement is flattened, and ``y`` is one vector.

    Raises:
        ValueError: If there is no operator, if their shapes do not fit, if their noise is not independent Gaussian, or if
            only some of them are exact.
    """
    if not ops:
        raise ValueError("stack: expected at least one operator, got none.")
    if any(isinstance(op, PerItem) for op in ops):
        return distribute(lambda *parts: stack(parts, axis=axis), *ops)
    linear = [op for op in ops if isinstance(op, LinearOperator)]
    return LinearStack(linear, axis=axis) if len(linear) == len(ops) else NonlinearStack(ops, axis=axis)


class Stack(Combination[Part]):
    """Several measurements of the same image, concatenated. See :func:`stack`.

    Args:
        ops: The operators.
        axis: Axis of ``out_shape`` along which ``y`` is concatenated.
    """

    def __init__(self, ops: Sequence[Part], *, axis: int | None = None) -> None:
        in_shape, out_shape = ops[0].in_shape, ops[0].out_shape
        for op in ops:
            if op.in_shape != in_shape:
                raise ValueError(
                    f"stack: all operators must take the same shape, got {in_shape} for {type(ops[0]).__name__} and "
                    f"{op.in_shape} for {type(op).__name__}."
                )
        if axis is None:
            self.axis, out_shape = None, (sum(torch.Size(op.out_shape).numel() for op in ops),)
        else:
            if not -len(out_shape) <= axis < len(out_shape):
                raise ValueError(f"stack: axis must be one of the axes of out_shape {out_shape}, got {axis}.")
            self.axis = axis % len(out_shape)
            before, after = out_shape[: self.axis], out_shape[self.axis + 1 :]
            if any((op.out_shape[: self.axis], op.out_shape[self.axis + 1 :]) != (before, after) for op in ops):
                raise ValueError(
                    f"stack: the shapes of the measurements may differ only along axis {axis}, got shapes "
                    f"{', '.join(str(op.out_shape) for op in ops)}. Omit axis to join the flattened measurements."
                )
            out_shape = (*before, sum(op.out_shape[self.axis] for op in ops), *after)
        super().__init__(ops, in_shape, out_shape, GaussianNoise(0.0))
        self.noise = self._noise()

    @property
    def dof(self) -> int | Tensor:
        return sum(part.dof for part in self.parts)

    @property
    def formula(self) -> str:
        return f"stack of {self._names(', ')}"

    def keep_measured(self, y: Tensor) -> Tensor:
        if self.complete:
            return y
        return self._join([part.keep_measured(piece) for part, piece in zip(self.parts, self._split(y), strict=True)])

    def forward(self, x: Tensor) -> Tensor:
        return self._join([part.forward(x) for part in self.parts])

    def _join(self, pieces: Sequence[Tensor]) -> Tensor:
        """Concatenate the measurements of the parts to ``y``."""
        if self.axis is None:
            return torch.cat([piece.flatten(1) for piece in pieces], 1)
        return torch.cat(list(pieces), self.axis + 1)

    def _split(self, y: Tensor) -> list[Tensor]:
        """Split ``y`` into the measurements of the parts."""
        if self.axis is None:
            pieces = y.split_with_sizes([torch.Size(part.out_shape).numel() for part in self.parts], 1)
            return [piece.reshape(-1, *part.out_shape) for part, piece in zip(self.parts, pieces, strict=True)]
        return list(y.split_with_sizes([part.out_shape[self.axis] for part in self.parts], self.axis + 1))

    def _noise(self) -> Noise:
        first, noises = self.parts[0].noise, [part.noise for part in self.parts]
        if len(noises) == 1 and self.axis is not None:
            return first
        independent = [noise for noise in noises if isinstance(noise, GaussianNoise)]
        if len(independent) < len(noises):
            raise ValueError(f"stack: only independent Gaussian noise can be joined, got {', '.join(map(repr, noises))}.")
        if all(noise.white and noise.sigma == first.sigma for noise in independent):
            return GaussianNoise(first.sigma)
        if not all(noise.sigma for noise in independent):
            raise ValueError(
                f"stack: either all measurements are exact or none, got {', '.join(map(repr, noises))}. "
                "Give the exact ones a small sigma_y."
            )
        pairs = zip(self.parts, independent, strict=True)
        return GaussianNoise(self._join([deviations_of(noise).expand(1, *part.out_shape) for part, noise in pairs])[0])


class NonlinearStack(Stack[Operator]):
    """A :class:`Stack` with at least one nonlinear part."""

    def jacobian(self, x: Tensor) -> LinearOperator:
        return LinearStack([part.jacobian(x) for part in self.parts], axis=self.axis)


class LinearStack(LinearOperator, Stack[LinearOperator]):
    r"""A linear :class:`Stack`. For measurement dimensions above 512 ``solve`` is iterative, preconditioned part by part.

    Args:
        ops: The operators.
        axis: Axis of ``out_shape`` along which ``y`` is concatenated.
    """

    def adjoint(self, y: Tensor) -> Tensor:
        pieces = zip(self.parts, self._split(y), strict=True)
        return reduce(torch.add, (part.adjoint(piece) for part, piece in pieces))

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        if self._small:
            return self.solve(v, lam)
        pieces = zip(self.parts, self._split(v), strict=True)
        return self._join([part.precondition(piece, weight_for(part, lam)) for part, piece in pieces])
