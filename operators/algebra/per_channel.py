"""An operator for one channel, applied to every channel of an image."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast, overload

from torch import Tensor

from ..core.noise import GaussianNoise, Noise
from ..core.operator import LinearOperator, Operator
from .combination import Combination, Part, is_exact, name_in_formula
from .per_item import PerItem, distribute

__all__ = ["LinearPerChannel", "NonlinearPerChannel", "PerChannel", "per_channel"]


@overload
def per_channel(op: LinearOperator, channels: int, *, noise: Noise | None = None) -> LinearOperator: ...
@overload
def per_channel(op: Operator, channels: int, *, noise: Noise | None = None) -> Operator: ...
def per_channel(op: Operator, channels: int, *, noise: Noise | None = None) -> Operator:
    r"""Apply an operator separately to every channel of an image: :math:`y_c = A(x_c) + n_c`.

    Args:
        op: :math:`A`, for images ``(1, H, W)`` or any other ``in_shape`` whose first axis has length 1; without noise.
        channels: Number of channels. ``x`` is ``(B, channels, H, W)`` and ``y`` is ``(B, channels, *op.out_shape)``.
        noise: Noise model of ``y``. Default: no noise.

    Raises:
        ValueError: If ``op`` takes more than one channel or has noise, or ``channels`` is not positive.
    """
    if op.in_shape[0] != 1:
        raise ValueError(f"per_channel: expected an operator for one channel, got one with in_shape {op.in_shape}.")
    if not is_exact(op):
        raise ValueError(
            f"per_channel: the operator has noise, {op.noise!r}. Give the noise of all channels as noise=... instead."
        )
    if channels < 1:
        raise ValueError(f"per_channel: channels must be positive, got {channels}.")
    given = GaussianNoise(0.0) if noise is None else noise
    if isinstance(op, PerItem):
        return distribute(lambda one: per_channel(one, channels, noise=given), op)
    return LinearPerChannel(op, channels, given) if isinstance(op, LinearOperator) else NonlinearPerChannel(op, channels, given)


class PerChannel(Combination[Part]):
    """The same operator for every channel: the channel axis is merged into the batch axis. See :func:`per_channel`.

    Args:
        op: The operator for one channel.
        channels: Number of channels.
        noise: The noise of ``y``.
    """

    def __init__(self, op: Part, channels: int, noise: Noise) -> None:
        super().__init__([op], (channels, *op.in_shape[1:]), (channels, *op.out_shape), noise)
        self.channels = channels

    @property
    def op(self) -> Part:
        return self.parts[0]

    @property
    def dof(self) -> int | Tensor:
        return self.channels * self.op.dof

    @property
    def items(self) -> int | None:
        return None if self.op.items is None else self.op.items // self.channels

    def take(self, rows: Sequence[int]) -> Any:
        if self.items is None:
            return self
        taken, every = copy.copy(self), [self.channels * row + c for row in rows for c in range(self.channels)]
        taken.parts = (cast(Part, self.op.take(every)),)
        return taken

    @property
    def formula(self) -> str:
        return f"{self.channels} channels by {name_in_formula(self.op)}"

    def keep_measured(self, y: Tensor) -> Tensor:
        return self._joined(self.op.keep_measured(y.flatten(0, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self._joined(self.op.forward(self._split(x)))

    def _split(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1).unsqueeze(1)

    def _joined(self, rows: Tensor) -> Tensor:
        return rows.reshape(-1, self.channels, *rows.shape[1:])


class NonlinearPerChannel(PerChannel[Operator]):
    r"""A nonlinear :class:`PerChannel`."""

    def jacobian(self, x: Tensor) -> LinearOperator:
        return LinearPerChannel(self.op.jacobian(self._split(x)), self.channels, self.noise)


class LinearPerChannel(LinearOperator, PerChannel[LinearOperator]):
    r"""A linear :class:`PerChannel`, with all closed forms of the operator for one channel.

    Args:
        op: The operator for one channel.
        channels: Number of channels.
        noise: The noise of ``y``.
    """

    def __init__(self, op: LinearOperator, channels: int, noise: Noise) -> None:
        super().__init__(op, channels, noise)
        self.closed_form, self.gram_scale = op.closed_form, op.gram_scale

    def adjoint(self, y: Tensor) -> Tensor:
        return self.op.adjoint(y.flatten(0, 1)).reshape(-1, *self.in_shape)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self._joined(self.op.solve(v.flatten(0, 1), self._repeated(lam)))

    def pinv(self, y: Tensor) -> Tensor:
        return self.op.pinv(y.flatten(0, 1)).reshape(-1, *self.in_shape)

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self._joined(self.op.precondition(v.flatten(0, 1), self._repeated(lam)))

    def _repeated(self, lam: Tensor | float) -> Tensor | float:
        if not isinstance(lam, Tensor) or not lam.ndim:
            return lam
        return lam.reshape(-1, *(1,) * len(self.op.out_shape)).repeat_interleave(self.channels, 0)
