"""Linear maps that are differentiated by their adjoint, not step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["with_adjoint"]


class _Linear(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, forward: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor]) -> Tensor:
        return forward(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.map, ctx.adjoint = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return with_adjoint(gradients[0], ctx.adjoint, ctx.map), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return with_adjoint(tangents[0], ctx.map, ctx.adjoint)


def with_adjoint(x: Tensor, forward: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``forward(x)``, whose gradient is ``adjoint`` of the incoming one.

    The derivatives that torch takes of a real Fourier transform are complex ones of full size, and those of a slice are
    images of zeros: an adjoint written out costs what ``forward`` does. It is differentiable itself, in both modes.

    Args:
        x: ``(B, *in_shape)``.
        forward: Linear in ``x``, over the whole batch.
        adjoint: Its exact adjoint.
    """
    y: Tensor = _Linear.apply(x, forward, adjoint)
    return y
