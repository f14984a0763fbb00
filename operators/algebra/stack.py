"""Several measurements of the same image, concatenated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import overload

import torch
from torch import Tensor

from ..core.concatenation import Concatenation
from ..core.noise import GaussianNoise, Noise
from ..core.operator import LinearOperator, Operator
from ..noise.joined import JoinedNoise
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
        ops: The operators, at least one. Each keeps its own noise, such as Laplace noise beside Gaussian noise.
        axis: Axis of ``out_shape`` along which ``y`` is concatenated, without the batch axis: 0 is the channel axis of
            images; negative axes count from the end. Default: every measurement is flattened, and ``y`` is one vector.

    Raises:
        ValueError: If there is no operator, if their shapes do not fit, if the noise of one is correlated, or if only some of
            them are exact.
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
        self.layout = Concatenation(tuple(op.out_shape for op in ops), self.axis)
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
        pieces = zip(self.parts, self.layout.split(y), strict=True)
        return self.layout.join([part.keep_measured(piece) for part, piece in pieces])

    def forward(self, x: Tensor) -> Tensor:
        return self.layout.join([part.forward(x) for part in self.parts])

    def _noise(self) -> Noise:
        first, noises = self.parts[0].noise, [part.noise for part in self.parts]
        if len(noises) == 1 and self.axis is not None:
            return first
        independent = [noise for noise in noises if isinstance(noise, GaussianNoise)]
        if any(noise.gaussian and not isinstance(noise, GaussianNoise) for noise in noises):
            raise ValueError(
                f"stack: noise that is correlated between entries of y cannot be joined, got {', '.join(map(repr, noises))}. "
                "Whiten that operator first: stack([whiten(op), ...]), with op.noise.whiten(y)."
            )
        if len(independent) == len(noises) and all(noise.white and noise.sigma == first.sigma for noise in independent):
            return GaussianNoise(first.sigma)
        if not all(noise.sigma for noise in noises):
            raise ValueError(
                f"stack: either all measurements are exact or none, got {', '.join(map(repr, noises))}. "
                "Give the exact ones a small sigma_y."
            )
        if len(independent) < len(noises):
            return JoinedNoise(noises, self.layout)
        pairs = zip(self.parts, independent, strict=True)
        return GaussianNoise(self.layout.join([deviations_of(noise).expand(1, *part.out_shape) for part, noise in pairs])[0])


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
        pieces = zip(self.parts, self.layout.split(y), strict=True)
        return reduce(torch.add, (part.adjoint(piece) for part, piece in pieces))

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        if self._small:
            return self.solve(v, lam)
        pieces = zip(self.parts, self.layout.split(v), strict=True)
        return self.layout.join([part.precondition(piece, weight_for(part, lam)) for part, piece in pieces])
