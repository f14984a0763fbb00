"""An operator for one channel, applied to every channel of an image."""

from __future__ import annotations

from typing import overload

from ..core.noise import GaussianNoise, Noise
from ..core.operator import LinearOperator, Operator
from .combination import is_exact
from .per_item import PerItem, distribute
from .repeated import LinearRepeated, NonlinearRepeated

__all__ = ["per_channel"]


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
        raise ValueError(
            f"per_channel: expected an operator for one channel, got one with in_shape {op.in_shape}. For every slice of a "
            "volume or a clip use per_slice."
        )
    if not is_exact(op):
        raise ValueError(
            f"per_channel: the operator has noise, {op.noise!r}. Give the noise of all channels as noise=... instead."
        )
    if channels < 1:
        raise ValueError(f"per_channel: channels must be positive, got {channels}.")
    given = GaussianNoise(0.0) if noise is None else noise
    if isinstance(op, PerItem):
        return distribute(lambda one: per_channel(one, channels, noise=given), op)
    if isinstance(op, LinearOperator):
        return LinearRepeated(op, channels, 0, given)
    return NonlinearRepeated(op, channels, 0, given)
