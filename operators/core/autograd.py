"""Linear maps whose derivatives are computed with their adjoint instead of by backpropagation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

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
    """Return ``forward(x)``, with ``adjoint`` as its vector-Jacobian product.

    This is cheaper than backpropagation: torch differentiates a real Fourier transform with complex ones of full size, and a
    slice with a tensor of zeros, while the explicit adjoint costs as much as ``forward``. The derivative is differentiable
    itself, in forward and reverse mode.

    Args:
        x: Input, ``(B, *in_shape)``.
        forward: Linear map of a whole batch.
        adjoint: The exact adjoint of ``forward``.
    """
    if not _is_followed(x):
        return forward(x)
    y: Tensor = _Linear.apply(x, forward, adjoint)
    return y


def _is_followed(x: Tensor) -> bool:
    """Return whether a derivative may be wanted. If not, the bookkeeping of :class:`_Linear`, 0.1 ms, is left out."""
    followed = x.requires_grad and torch.is_grad_enabled()
    return followed or forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()
