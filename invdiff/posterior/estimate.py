"""Posterior probabilities and expectations with their Monte Carlo standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from invdiff.posterior.result import Posterior

__all__ = ["Estimate", "expectation", "probability"]

SHOWN = 8  # most values that a repr lists


@dataclass(frozen=True, eq=False)
class Estimate:
    """A number estimated from posterior samples, for every item.

    Attributes:
        value: The estimate, ``(B, *shape)``.
        standard_error: Its Monte Carlo standard error, ``(B, *shape)``: how far ``value`` is expected to be from what
            infinitely many samples of this sampler would give. It says nothing about errors of the prior or of the method.
    """

    value: Tensor
    standard_error: Tensor

    def __repr__(self) -> str:
        if self.value.numel() > SHOWN:
            return f"Estimate of shape {tuple(self.value.shape)}, standard error up to {float(self.standard_error.max()):.2g}"
        pairs = zip(self.value.flatten().tolist(), self.standard_error.flatten().tolist(), strict=True)
        texts = [_with_error(value, error) for value, error in pairs]
        return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def probability(post: Posterior, event: Callable[[Tensor], Tensor]) -> Estimate:
    """Return :meth:`Posterior.probability <invdiff.posterior.Posterior.probability>`, which documents it."""
    happens = _values(post, event, "probability", "booleans, one per sample, such as lambda x: x.mean((1, 2, 3)) > 0")
    if happens.dtype != torch.bool:
        raise TypeError(
            f"probability: the function must return booleans, got {happens.dtype}. Compare with something, such as x > 0, or "
            "use expectation(...) for the mean of a number."
        )
    value = (_weights(post, happens) * happens).sum(0).clamp(0, 1)
    size = _size(post, value)
    # Laplace's rule of succession in the place of the share in p (1 - p) / n: no event is certain after n samples.
    likely = (size * value + 1) / (size + 2)
    return _estimate(post, value, (likely * (1 - likely) / size).sqrt())


def expectation(post: Posterior, function: Callable[[Tensor], Tensor]) -> Estimate:
    """Return :meth:`Posterior.expectation <invdiff.posterior.Posterior.expectation>`, which documents it."""
    numbers = _values(post, function, "expectation", "a number per sample, such as lambda x: x.mean((1, 2, 3))")
    if numbers.is_complex():
        raise TypeError(f"expectation: the function must return real numbers, got {numbers.dtype}.")
    numbers = numbers.double()
    wrong = (~numbers.isfinite()).reshape(*post.samples.shape[:2], -1).any(-1)
    if wrong.any():
        k, b = wrong.nonzero()[0].tolist()
        raise ValueError(f"expectation: the function returned nan or infinity for sample {k} of item {b}.")
    weights = _weights(post, numbers)
    value = (weights * numbers).sum(0)
    square = weights.square().sum(0)
    # The delta method for a ratio of weighted sums; for equal weights the unbiased variance over n, NaN for a single sample.
    variance = (weights.square() * (numbers - value) ** 2).sum(0) / (1 - square)
    return _estimate(post, value, (variance / (square * _size(post, value))).sqrt())


def _values(post: Posterior, function: Callable[[Tensor], Any], name: str, wanted: str) -> Tensor:
    """Return what the function says of every sample, ``(N, B, *shape)``. It receives the samples of one item, as copies."""
    if not callable(function):
        raise TypeError(f"{name}: expected a function of samples (n, *event), got {type(function).__name__}.")
    count, items, *event = post.samples.shape
    found: list[Tensor] = []
    for b in range(items):
        try:
            values = function(post.samples[:, b].clone())
        except Exception as error:
            error.add_note(f"{name}: raised by the function, which was given a tensor of shape {(count, *event)}.")
            raise
        if not isinstance(values, Tensor) or values.ndim == 0 or len(values) != count:
            got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"{type(values).__name__}"
            raise ValueError(
                f"{name}: the function of samples {(count, *event)} must return a tensor of {wanted}, of shape ({count},) or "
                f"({count}, ...), got {got}."
            )
        if found and (values.shape, values.dtype) != (found[0].shape, found[0].dtype):
            raise ValueError(f"{name}: the function returned shape {tuple(values.shape)} for item {b}, unlike for item 0.")
        found.append(values.detach())
    return torch.stack(found, 1)


def _weights(post: Posterior, like: Tensor) -> Tensor:
    weights = post.weights.double()
    weights = weights / weights.sum(0)
    return weights.reshape(*weights.shape, *(1,) * (like.ndim - 2)).to(like.device)


def _size(post: Posterior, like: Tensor) -> Tensor:
    """Return the effective number of samples of every item, shaped to go with ``like``."""
    size = post.ess.double().clamp(1, len(post.samples)).to(like.device)
    return size.reshape(-1, *(1,) * (like.ndim - 1))


def _estimate(post: Posterior, value: Tensor, error: Tensor) -> Estimate:
    dtype = post.samples.dtype
    return Estimate(value.to(dtype), error.expand_as(value).to(dtype))


def _with_error(value: float, error: float) -> str:
    """Return a value and its error with two significant digits of the error."""
    if not math.isfinite(error) or error == 0:
        return f"{value:.3g} +- {error:.2g}"
    digits = 1 - math.floor(math.log10(error))
    return f"{value:.{digits}f} +- {error:.{digits}f}" if 0 <= digits <= 6 else f"{value:.6g} +- {error:.2g}"
