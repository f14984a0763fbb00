"""What a sampler checks before it starts: the pieces that users wrote, and the measurement."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from invdiff.methods import METHODS
from invdiff.methods.algorithm import Algorithm
from invdiff.operators import Operator
from invdiff.operators.core import try_operator as operators
from invdiff.operators.core.values import check_real
from invdiff.posterior.memory import out_of_memory
from invdiff.priors import ScoreModel
from invdiff.priors import trial as priors
from invdiff.random import Streams, generator

__all__ = ["check_measurement", "check_operator", "check_prior", "check_range"]

FAR_OUTSIDE = 8.0  # Root mean square of y, relative to that of measured images in [-1, 1], from which a unit must be wrong.


def check_operator(op: Operator) -> None:
    """Raise an error if an operator or a noise that a user wrote mixes items, is random, or has a wrong gradient or adjoint.

    Operators without an axis besides the batch are refused too.
    """
    if not op.out_shape:
        raise ValueError(
            f"{type(op).__name__}: a measurement needs an axis besides the batch, also for one number: y[:, None]."
        )
    if operators.is_of_user(op):
        operators.try_operator(op)
    if not type(op.noise).__module__.startswith("invdiff."):
        operators.try_noise(op.noise, op.out_shape)


def check_prior(score: ScoreModel, op: Operator, algorithm: Algorithm, method: str) -> None:
    """Raise an error if a prior that a user wrote mixes items, is random, or lacks a gradient that the method needs.

    Raises:
        TypeError: If the prior does not return a real tensor.
        ValueError: If it fails; the message says why, and names methods that need no gradient if that is all.
    """
    if not priors.is_of_user(score):
        return
    gradient = algorithm.differentiates or getattr(getattr(algorithm, "guidance", None), "differentiates", False)
    try:
        reason = priors.try_prior(score, op.in_shape, gradient=gradient)
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):  # One item may fit where two with a gradient do not.
            return
        raise
    if reason:
        free = ", ".join(
            name for name in METHODS.lines if name != "unconditional" and not METHODS[name].algorithm.differentiates
        )
        raise ValueError(
            f"{method} differentiates the network, and it has no gradient, or a wrong one: {reason}. Remove torch.no_grad, "
            f".detach() and numpy from it. Methods that need no gradient of the network: {free}."
        )


def check_measurement(op: Operator, y: Tensor) -> Tensor:
    """Return ``y`` in float32 or float64, with unmeasured entries set to 0.

    Raises:
        TypeError: If ``y`` is no tensor of floating-point numbers.
        ValueError: If it is complex, its shape is wrong, or a measured entry is not finite.
    """
    if not isinstance(y, Tensor):
        raise TypeError(
            f"run: y must be a tensor, got {type(y).__name__}. Convert it: torch.as_tensor(y, dtype=torch.float32)."
        )
    check_real("run: y", y)
    if tuple(y.shape[1:]) != op.out_shape or y.ndim != len(op.out_shape) + 1 or not len(y):
        wanted = ", ".join(map(str, op.out_shape))
        hint = " Add the batch axis: y[None]." if tuple(y.shape) == op.out_shape else ""
        raise ValueError(f"run: y must have shape (B, {wanted}), got {tuple(y.shape)}.{hint}")
    if op.items not in (None, len(y)):
        raise ValueError(
            f"run: the operator differs between its {op.items} items, got {len(y)} measurements. Give one per item, "
            "or make the sampler with op.take(rows)."
        )
    y = op.keep_measured(y)
    if not y.isfinite().all():
        bad = int((~y.isfinite()).sum())
        raise ValueError(f"run: y must be finite, got {bad} NaN or infinite values of {y.numel()}. A Mask leaves them out.")
    y = y.detach().to(torch.float64 if y.dtype == torch.float64 else torch.float32)
    return y.clone() if y.is_inference() else y


def check_range(op: Operator, y: Tensor, score: ScoreModel) -> None:
    """Warn if ``y`` is far larger than the measurements of images in [-1, 1], or of the prior's own range.

    Three images are measured: black, white and random ones. Measurements of other items than images ``(C, H, W)`` may have any
    size.
    """
    scale = priors.inner_prior(score).scale
    if len(op.in_shape) != 3:
        return
    g = torch.Generator().manual_seed(0)
    images = 2 * torch.rand(3, *op.in_shape, generator=g, device="cpu") - 1
    images[0], images[1] = -1, 1
    op = (op if op.items is None else op.take([0, 0, 0])).to(y.device, y.dtype)
    with torch.no_grad():
        clean = op(max(1.0, scale or 0.0) * images.to(y))
        if not clean.isfinite().all():
            return
        streams = Streams([generator(0, "measure", k, 0, device=y.device) for k in range(len(clean))])
        usual = op.keep_measured(op.noise.add(clean, streams)).square().flatten(1).mean(1).max().sqrt()
        ratio = float((y.square().flatten(1).mean(1).max().sqrt() / usual).nan_to_num(posinf=0))
    if ratio > FAR_OUTSIDE:
        warnings.warn(
            f"run: y is {ratio:.0f} times as large as measurements of images in [-1, 1] (root mean squares), and the samples "
            "will be as well. Give y in the units of op(x): y / 127.5 - 1 for pixels from 0 to 255.",
            stacklevel=6,
        )
