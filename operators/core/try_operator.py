"""Trials of operators that users wrote: independent items, gradients, linearity, the adjoint and closed forms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from invdiff.linalg import dot, norm
from invdiff.trial import in_own_modes

from .noise import Noise
from .operator import LinearOperator, Operator
from .trial import try_function

__all__ = ["is_of_user", "try_noise", "try_operator"]

SOLVED = 1e-2  # Largest relative residual of a solve, in any precision.


def is_of_user(op: Operator) -> bool:
    """Return whether the class of an operator, or of one that it contains, is not the library's own."""
    return any(not type(part).__module__.startswith("invdiff.") for part in _parts(op))


def try_noise(noise: Noise, out_shape: Sequence[int]) -> None:
    """Try the gradient of a likelihood at random values, given ``y = 0``, and the independence of its items.

    A likelihood that is not finite there is not tried.

    Raises:
        TypeError: If it is not a real tensor.
        ValueError: If it mixes the items of a batch, is random, or has no gradient or a wrong one.
    """
    try_function(
        f"{type(noise).__name__}.log_likelihood",
        lambda clean: noise.log_likelihood(torch.zeros_like(clean), clean),
        out_shape,
        device="cpu",
        dtype=torch.float32,
        linear=True,
        advice="return a constant, as for rounding",
    )


def try_operator(op: Operator) -> None:
    """Try an operator on random items: their independence, its gradient, its adjoint, and what it declares or overrides.

    An operator whose ``surrogate`` is true may have a gradient other than its derivative.

    Raises:
        TypeError: If its result is not a real tensor.
        ValueError: If a property is missing; the message says which.
    """
    if op.items is not None:
        op = op.take([0, 0])
    owner, linear = type(op).__name__, isinstance(op, LinearOperator)
    held = next((v for v in vars(op).values() if isinstance(v, Tensor) and v.is_floating_point()), torch.empty(0))
    device, dtype = op.device or held.device, op.dtype or held.dtype
    own_adjoint = isinstance(op, LinearOperator) and type(op).adjoint is not LinearOperator.adjoint
    try_function(
        owner,
        op.forward,
        op.in_shape,
        device=device,
        dtype=dtype,
        linear=linear,
        gradient=not own_adjoint,
        surrogate=op.surrogate,
    )
    if isinstance(op, LinearOperator):
        with in_own_modes(quiet=True), torch.no_grad():
            _try_linear(op, device, dtype)


def _try_linear(op: LinearOperator, device: torch.device | str, dtype: torch.dtype) -> None:
    owner, g = type(op).__name__, torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 1, *op.in_shape, generator=g, dtype=torch.float64, device="cpu").to(device, dtype)
    v = torch.randn(1, *op.out_shape, generator=g, dtype=torch.float64, device="cpu").to(device, dtype)
    y_a, y_b, y_sum = op.forward(torch.cat([a, b, a + b])).chunk(3)
    tolerance = torch.finfo(dtype).eps ** 0.5
    gap, size = norm(y_sum - y_a - y_b), norm(y_a) + norm(y_b)
    if not (gap <= tolerance * size).all():
        raise ValueError(
            f"{owner}: forward is not linear: f(a + b) differs from f(a) + f(b) by a relative error of {float(gap / size):.2g}."
            " Derive from Operator, or remove the constant part."
        )
    v = op.keep_measured(v) + y_a  # Along A a, a wrong factor shows in full.
    x = op.adjoint(v)
    if x.shape != a.shape:
        raise ValueError(f"{owner}: adjoint must return shape {tuple(a.shape)} here, got {tuple(x.shape)}.")
    beside = op.adjoint(torch.cat([v, 3 * y_b]))[:1]
    if not (norm(beside - x) <= tolerance * norm(x)).all():
        raise ValueError(
            f"{owner}: adjoint is random, or mixes the items of a batch: the result of one changes with another next to it. "
            "Omit it to use automatic differentiation."
        )
    gap, size = (dot(y_a, v) - dot(a, x)).abs(), norm(y_a) * norm(v)
    if not (gap <= tolerance * size).all():
        raise ValueError(
            f"{owner}: adjoint is not the adjoint of forward: <A a, y> differs from <a, A^T y> by {float(gap / size):.2g} "
            "times |A a||y|. Omit it to use automatic differentiation."
        )
    _try_closed_forms(op, y_a, v)


def _try_closed_forms(op: LinearOperator, y: Tensor, v: Tensor) -> None:
    """Try what a user may override or declare: ``keep_measured``, ``gram_scale``, ``solve`` and ``pinv``."""
    owner, cls = type(op).__name__, type(op)

    def same(found: Tensor, expected: Tensor) -> bool:
        return bool((norm(found - expected) <= SOLVED * norm(expected)).all())

    if not same(op.keep_measured(y), y):
        raise ValueError(f"{owner}: keep_measured changes measured entries: it must set only those to 0 that forward leaves 0.")
    if op.gram_scale is not None and not same(op(op.adjoint(v)), op.gram_scale * v):
        raise ValueError(
            f"{owner}: A A^T y is not gram_scale * y, with gram_scale = {op.gram_scale:g}. Omit it: it is optional."
        )
    lam = float(norm(op(op.adjoint(v))) / norm(v).clamp(min=torch.finfo(v.dtype).tiny)) or 1.0
    if cls.solve is not LinearOperator.solve:
        w = op.solve(v, lam)
        if w.shape != v.shape or not same(op(op.adjoint(w)) + lam * w, v):
            raise ValueError(f"{owner}: solve(v, lam) is not the solution of (A A^T + lam I) w = v. Omit it: it has a default.")
    if cls.pinv is not LinearOperator.pinv and not same(op(op.pinv(y)), y):
        raise ValueError(f"{owner}: pinv is not a pseudo-inverse: A pinv(A x) is not A x. Omit it: it has a default.")


def _parts(op: Operator) -> Iterator[Operator]:
    """Yield the operator and all operators among its attributes and the entries of its tuple attributes."""
    yield op
    for value in vars(op).values():
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Operator):
                yield from _parts(part)
