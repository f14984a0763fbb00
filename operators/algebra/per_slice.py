"""An operator for images, applied to every slice of a volume or every frame of a clip."""

from __future__ import annotations

from typing import overload

from ..core.noise import GaussianNoise, Noise
from ..core.operator import LinearOperator, Operator
from .combination import is_exact
from .per_item import PerItem, distribute
from .repeated import LinearRepeated, NonlinearRepeated

__all__ = ["per_slice"]


@overload
def per_slice(op: LinearOperator, slices: int, *, noise: Noise | None = None) -> LinearOperator: ...
@overload
def per_slice(op: Operator, slices: int, *, noise: Noise | None = None) -> Operator: ...
def per_slice(op: Operator, slices: int, *, noise: Noise | None = None) -> Operator:
    r"""Apply an operator of images separately to every slice of a volume or a clip: :math:`y_k = A(x_k) + n_k`.

    The slices lie along the axis after the channels, in ``x`` and in ``y``: a clip ``(C, T, H, W)`` that is blurred frame by
    frame is a clip again, and the sinograms ``(1, angles, bins)`` of a volume ``(1, D, H, W)`` are ``(1, D, angles, bins)``.

    Args:
        op: :math:`A`, for images ``(C, H, W)`` or any other ``in_shape``; without noise.
        slices: Number of slices. ``x`` is ``(B, C, slices, H, W)``, and ``y`` is ``op.out_shape`` with the slices as its second
            axis.
        noise: Noise model of ``y``. Default: no noise.

    Raises:
        ValueError: If ``op`` has noise, or ``slices`` is not positive.
    """
    if not is_exact(op):
        raise ValueError(f"per_slice: the operator has noise, {op.noise!r}. Give the noise of all slices as noise=... instead.")
    if slices < 1:
        raise ValueError(f"per_slice: slices must be positive, got {slices}.")
    given = GaussianNoise(0.0) if noise is None else noise
    if isinstance(op, PerItem):
        return distribute(lambda one: per_slice(one, slices, noise=given), op)
    if isinstance(op, LinearOperator):
        return LinearRepeated(op, slices, 1, given)
    return NonlinearRepeated(op, slices, 1, given)
