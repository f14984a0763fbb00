"""Trial calls of a user's function, with a check of the result."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["checked_call"]


def checked_call(owner: str, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return ``function(x)`` after checking that it is a real tensor over the same batch.

    Raises:
        TypeError: If the result is not a real tensor.
        ValueError: If its first axis is not the batch.
    """
    with torch.no_grad():
        y = function(x)
    if not isinstance(y, Tensor) or not y.is_floating_point():
        got = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(
            f"{owner}: the function must return a real floating-point tensor, got {got}. "
            "See torch.view_as_real for complex tensors."
        )
    if y.ndim == 0 or len(y) != len(x):
        raise ValueError(
            f"{owner}: the first axis of the returned tensor must be the batch, got shape {tuple(y.shape)} "
            f"for an input of shape {tuple(x.shape)}."
        )
    return y
