"""Trial calls of a user's function, with a check of the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from invdiff.trial import NotFiniteError, by_autograd, by_transform, in_own_modes, try_map

__all__ = ["checked_call", "try_function"]

STEP = 1e-3  # of the difference that stands for the derivative, in the units of x
TOLERANCE = 0.02


def checked_call(owner: str, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return ``function(x)`` after checking that it is a real tensor over the same batch.

    Raises:
        TypeError: If the result is not a real tensor, or one of another dtype or device.
        ValueError: If its first axis is not the batch.
    """
    with in_own_modes(), torch.no_grad():
        return _checked(owner, function(x), x)


def try_function(
    owner: str,
    function: Callable[[Tensor], Tensor],
    in_shape: Sequence[int],
    *,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    linear: bool,
    gradient: bool = True,
    surrogate: bool = False,
    advice: str = "",
) -> None:
    """Try a function on batches of two random items: see :func:`invdiff.trial.try_map`.

    It is tried within [-1, 1], the range of images, then on positive values. A function that is finite on neither is not tried.

    Args:
        owner: The subject of the messages.
        function: The function.
        in_shape: Shape of one ``x``.
        device: Device of the trial.
        dtype: Dtype of the trial.
        linear: Whether it is differentiated as a linear function, by autograd, or by ``torch.func``.
        gradient: Whether it is differentiated at all.
        surrogate: Whether its gradient is meant to differ from the derivative.
        advice: What else to do about a gradient. Default: give an adjoint, or declare a surrogate.

    Raises:
        TypeError: If the result is not a real tensor.
        ValueError: If its first axis is not the batch, or if the function mixes the items of a batch, is random, changes its
            argument in place, or has no gradient or a wrong one.
    """
    for points in _points(in_shape, device, dtype):
        try:
            with in_own_modes(quiet=True):
                reason = try_map(
                    f"{owner}: the function",
                    lambda x: _checked(owner, function(x), x),
                    points,
                    step=STEP,
                    tolerance=TOLERANCE,
                    pullback=by_autograd if linear else by_transform,
                    gradient=gradient,
                    compare=not surrogate,
                )
        except NotFiniteError:
            continue
        if reason:
            declare = "give its adjoint" if linear else "declare a gradient that is meant to differ by surrogate=True"
            raise ValueError(
                f"{owner}: the function has no gradient, or a wrong one: {reason}. Methods differentiate it: write it in torch "
                f"without no_grad, .detach(), numpy and rounding, or {advice or declare}."
            )
        return


def _checked(owner: str, y: Tensor, x: Tensor) -> Tensor:
    if not isinstance(y, Tensor) or not y.is_floating_point():
        got = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(
            f"{owner}: the function must return a real floating-point tensor, got {got}. "
            "See torch.view_as_real for complex tensors."
        )
    if (y.dtype, y.device) != (x.dtype, x.device):
        raise TypeError(
            f"{owner}: the function must keep dtype and device, got {y.dtype} on {y.device} for {x.dtype} on {x.device}. "
            "Convert the result: y.to(x)."
        )
    if y.ndim == 0 or len(y) != len(x):
        raise ValueError(
            f"{owner}: the first axis of the returned tensor must be the batch, got shape {tuple(y.shape)} "
            f"for an input of shape {tuple(x.shape)}."
        )
    return y


def _points(in_shape: Sequence[int], device: torch.device | str | None, dtype: torch.dtype | None) -> Iterator[Tensor]:
    g = torch.Generator().manual_seed(0)
    dtype = dtype or torch.get_default_dtype()
    for low, high in ((-0.9, 0.9), (0.1, 0.9)):
        places = low + (high - low) * torch.rand(3, *in_shape, generator=g, dtype=torch.float64, device="cpu")
        direction = torch.randn(1, *in_shape, generator=g, dtype=torch.float64, device="cpu")
        yield torch.cat([places, direction]).to(device or "cpu", dtype)
