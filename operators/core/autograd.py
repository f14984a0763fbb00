"""Maps whose derivatives are given by a formula instead of found by backpropagation."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["is_followed", "with_adjoint", "with_derivative"]


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


class _Pointwise(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, function: Callable[[Tensor], Tensor], times_slope: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor:
        return function(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, ctx.times_slope = inputs
        ctx.save_for_backward(x, output)
        ctx.save_for_forward(x, output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.times_slope(gradients[0], *ctx.saved_tensors), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        product: Tensor = ctx.times_slope(tangents[0], *ctx.saved_tensors)
        return product.clone() if product is tangents[0] else product  # A result is not the argument itself.


# torch asks for the signature in every call. Finding it took a third of the time that such a function adds.
for _function in (_Linear, _Pointwise):
    setattr(_function.forward, "__signature__", inspect.signature(_function.forward))  # noqa: B010


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
    if not is_followed(x):
        return forward(x)
    y: Tensor = _Linear.apply(x, forward, adjoint)
    return y


def with_derivative(
    x: Tensor, function: Callable[[Tensor], Tensor], times_slope: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    r"""Return ``function(x)``, a function of every entry, with ``times_slope`` as its derivative.

    This is cheaper than backpropagation, which goes back through every step of the function, and saves what it needs there.

    Args:
        x: Input of any shape.
        function: :math:`f`, which maps every entry of a tensor. It may change its own intermediate results in place.
        times_slope: The map from :math:`v`, ``x`` and ``function(x)`` to :math:`f'(x)\, v`. It is differentiated itself for
            higher derivatives, so it must not change these three.
    """
    if not is_followed(x):
        return function(x)
    y: Tensor = _Pointwise.apply(x, function, times_slope)
    return y


def is_followed(x: Tensor) -> bool:
    """Return whether a derivative may be wanted. If not, the bookkeeping, 0.1 ms, is left out."""
    followed = x.requires_grad and torch.is_grad_enabled()
    return followed or forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()
