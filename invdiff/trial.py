r"""Trials of a map that a user gave, such as a network or a measurement, on two items of random numbers.

A map that mixes the items of a batch, is random, changes its argument, or has no gradient still returns numbers of the right
shape: samples drawn with it are wrong without any other sign.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor

__all__ = ["NotFiniteError", "by_autograd", "by_transform", "in_own_modes", "try_map"]

SAME = {"cpu": 1e-5}  # Largest relative difference of two evaluations of the same item at the same place of a batch.
SAME_ELSEWHERE = 1e-2  # On other devices the order of a sum can differ between two calls: in bfloat16 by this much.
MOVED = 2e-2  # The same for an item at another place: it may be summed in another order on every device.
LEAKED = 1e-6  # Largest gradient with respect to the other item, relative to the own one.
UNRELIABLE = 0.5  # Curvature and rounding error, relative to a difference, beyond which the difference says nothing.

NEIGHBORS = "Each may depend on itself alone: no mean or maximum over the batch, and batch normalization with net.eval() only."

Pullback = Callable[[Callable[[Tensor], Tensor], Tensor], tuple[Tensor, Callable[[Tensor], Tensor | None]]]


class NotFiniteError(ValueError):
    """Raised if a map returns NaN or an infinite value."""


@contextlib.contextmanager
def in_own_modes(*, quiet: bool = False) -> Iterator[None]:
    """Leave the autocast and inference modes of the caller, which would change the dtype of the solver's state.

    Args:
        quiet: Whether to suppress warnings.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if quiet:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        yield


def by_autograd(function: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor | None]]:
    """Return ``function(z)`` and its vector-Jacobian product, which is ``None`` where there is no gradient."""
    with torch.enable_grad():
        z = z.requires_grad_()
        out = function(z)

    def pull(v: Tensor) -> Tensor | None:
        return torch.autograd.grad(out, z, v, allow_unused=True)[0] if out.requires_grad else None

    return out.detach(), pull


def by_transform(function: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor | None]]:
    """Do the same by ``torch.func``, as for the Jacobians of nonlinear operators."""
    with torch.enable_grad():
        out, pull = cast(tuple[Tensor, Callable[[Tensor], tuple[Tensor]]], torch.func.vjp(function, z.detach()))
    return out, lambda v: pull(v)[0]


def try_map(
    what: str,
    function: Callable[[Tensor], Tensor],
    points: Tensor,
    *,
    step: float,
    tolerance: float,
    pullback: Pullback = by_autograd,
    gradient: bool = True,
    compare: bool = True,
) -> str:
    r"""Try a map on batches of two. Return what is wrong with its gradient, in words; an empty string if nothing is.

    Three evaluations, and a gradient of the last one: :math:`(a, b)`; :math:`(a + h d, a - h d)`, whose difference is the
    derivative along :math:`d`; and :math:`(3 c, a)`, where the result for :math:`a` must be the same as in the first.

    Args:
        what: The subject of the messages, such as ``"from_network: the network"``.
        function: The map, from ``(B, *event)`` to ``(B, *other)``.
        points: :math:`a, b, c, d`, ``(4, *event)``.
        step: :math:`h`.
        tolerance: Largest relative error of the derivative.
        pullback: How gradients are computed.
        gradient: Whether to try the gradient.
        compare: Whether to compare it with the difference; surrogate gradients differ.

    Raises:
        NotFiniteError: If a result is not finite.
        ValueError: If the map mixes the items of a batch, is random, changes its argument, or overwrites earlier results.
    """
    a, b, c, d = points
    given = torch.stack([a, b])
    with torch.no_grad():
        first = function(given)
        if not torch.equal(given, torch.stack([a, b])):
            raise ValueError(f"{what} changes its argument in place. Give it a copy: lambda x, ...: f(x.clone(), ...).")
        if not first.isfinite().all():
            raise NotFiniteError(f"{what} returns values that are not finite.")
        kept = first.clone()
        moved = function(torch.stack([a + step * d, a - step * d])).clone()
    out, pull, reason = _evaluate(function, torch.stack([3 * c, a]), pullback, gradient=gradient)
    if not torch.equal(first, kept):
        raise ValueError(f"{what} overwrites its earlier results: every call returns the same memory. Return a copy.")
    _check_same(what, function, points, kept, out)
    slope = (moved[0] - moved[1]) / (2 * step)
    v = slope if slope.any() else kept[0] - kept[1]  # Steps, as of rounding, have no slope but at a few places.
    v = v / v.abs().amax().clamp(min=torch.finfo(v.dtype).tiny)  # Small ones would vanish in half precision.
    if not gradient or reason or not v.any():  # A constant map has no gradient, and needs none.
        return reason
    try:
        product = pull(torch.stack([torch.zeros_like(v), v]))
    except RuntimeError as error:
        return _first_line(error)
    if product is None or not product.any():
        return "the result does not depend on the input for autograd, although it changes with it"
    if not product[1].isfinite().all():
        return "the gradient is not finite where the result is"
    other = product[0].nan_to_num(0, 0, 0)  # 3 c may be outside of the domain, as that of a square root.
    if other.norm() > LEAKED * product[1].norm():
        raise ValueError(f"{what} mixes the items of a batch: one has a gradient with respect to another. {NEIGHBORS}")
    if not (compare and slope.any()):
        return ""
    bent = float(((moved[0] + moved[1]) / 2 - kept[0]).norm() / (step * slope).norm())
    ratio = float((product[1] * d).sum() / (v * slope).sum())
    if bent > UNRELIABLE or abs(ratio - 1) <= tolerance + 2 * bent:
        return ""
    return f"along a random direction the gradient is {ratio:.2g} times the change of the result"


def _check_same(what: str, function: Callable[[Tensor], Tensor], points: Tensor, kept: Tensor, out: Tensor) -> None:
    """Raise a ``ValueError`` if the results of :math:`a` differ with :math:`b` behind it and with :math:`3 c` before it."""
    a, b, c, _ = points
    same, gap = SAME.get(points.device.type, SAME_ELSEWHERE), _gap(out[1], kept[0])
    if gap <= same:
        return
    with torch.no_grad():
        again = _gap(function(torch.stack([a, b]))[0], kept[0])
        if again > same:
            raise ValueError(
                f"{what} is random: two calls with the same input differ by {again:.1g} of its norm. Remove dropout and noise, "
                "or put the modules inside in evaluation mode: net.eval()."
            )
        if gap <= MOVED:  # The place alone?
            gap = _gap(function(torch.stack([-2 * c, a]))[1], out[1])
    if gap > same:
        raise ValueError(
            f"{what} mixes the items of a batch: the result of one changes by {gap:.1g} of its norm with another next to it. "
            f"{NEIGHBORS}"
        )


def _evaluate(
    function: Callable[[Tensor], Tensor], z: Tensor, pullback: Pullback, *, gradient: bool
) -> tuple[Tensor, Callable[[Tensor], Tensor | None], str]:
    """Return ``function(z)``, its vector-Jacobian product, and why there is none."""
    reason = ""
    if gradient:
        try:
            out, pull = pullback(function, z)
            return out, pull, ""
        except (RuntimeError, TypeError) as error:  # Such as that of numpy() on a tensor with a graph.
            reason = _first_line(error)
    with torch.no_grad():
        return function(z.detach()), lambda v: None, reason


def _gap(value: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference relative to that of ``expected``."""
    difference, size = (value - expected).norm(), expected.norm()
    return float(difference / size) if size > 0 else float(difference > 0)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
