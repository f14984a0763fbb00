"""Operators of other libraries: ``deepinv``, ``scipy`` and what looks like them. None of these needs to be installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .algebra.stack import stack
from .core.autograd import with_adjoint
from .core.noise import Noise, noise_of
from .core.operator import Operator
from .core.validation import event_shape
from .generic.function import Function, LinearFunction, NotLinearError
from .sampling.mask import Mask

__all__ = ["from_deepinv", "from_linear_operator"]


def from_linear_operator(
    linear_operator: Any,
    in_shape: Sequence[int],
    out_shape: Sequence[int] | None = None,
    *,
    sigma_y: float = 0.0,
    noise: Noise | None = None,
) -> LinearFunction:
    r"""Return a ``scipy`` matrix or linear operator as an operator: :math:`y = A x + n`.

    It is computed on the CPU in float64, whatever ``x`` is, and the result comes back in the dtype and on the device of
    ``x``. Its derivative is its adjoint. A dense matrix is faster as :class:`Matrix`.

    Args:
        linear_operator: :math:`A`, of shape ``(m, n)``: a sparse matrix, an array, a ``scipy.sparse.linalg.LinearOperator``
            (those of PyLops are too), or anything with ``shape``, ``matvec`` and ``rmatvec``.
        in_shape: Shape of one ``x``, without the batch axis: ``n`` numbers.
        out_shape: Shape of one ``y``: ``m`` numbers. Default: ``(m,)``.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        TypeError: If it is nothing of that kind, is complex, or has no ``rmatvec``.
        ValueError: If the shapes do not fit, or if ``rmatvec`` is not the adjoint of ``matvec``.
    """
    from scipy.sparse.linalg import aslinearoperator

    try:
        linear = aslinearoperator(linear_operator)
    except TypeError:
        raise TypeError(
            "from_linear_operator: expected a matrix, or an object with shape, matvec and rmatvec, "
            f"got {type(linear_operator).__name__}. A callable is taken by LinearFunction."
        ) from None
    if linear.dtype is not None and linear.dtype.kind == "c":
        raise TypeError(
            f"from_linear_operator: the operator must be real, got {linear.dtype}. Give one from and to the real and imaginary "
            "parts, each an axis of 2."
        )
    outputs, inputs = linear.shape
    sides = event_shape("from_linear_operator", in_shape), (outputs,) if out_shape is None else tuple(out_shape)
    for name, side, count in (("in_shape", sides[0], inputs), ("out_shape", sides[1], outputs)):
        if torch.Size(side).numel() != count:
            raise ValueError(
                f"from_linear_operator: {name} must hold {count} numbers for an operator of shape {linear.shape}, got {side}."
            )
    try:
        linear.rmatvec(np.zeros(outputs))
    except (NotImplementedError, TypeError) as error:  # Which of them is up to the version of scipy.
        raise TypeError(
            f"from_linear_operator: rmatvec, the adjoint, is missing from {type(linear_operator).__name__}, "
            "and nothing can be solved without it."
        ) from error
    forward, adjoint = _OfColumns(linear.matmat, sides[1]), _OfColumns(linear.rmatmat, sides[0])
    return LinearFunction(
        _WithAdjoint(forward, adjoint),
        sides[0],
        adjoint=_WithAdjoint(adjoint, forward),
        sigma_y=sigma_y,
        noise=noise,
        dtype=torch.float64,
    )


# Callables that are kept in an operator are classes, not closures: these could not be saved with it.


@dataclass(frozen=True)
class _OfColumns:
    """The map on ``(B, *event)`` that ``product`` is on the columns of an array, with results of ``shape``."""

    product: Callable[[Any], Any]
    shape: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        columns = self.product(x.detach().flatten(1).mT.to("cpu", torch.float64).numpy())
        return torch.from_numpy(columns).mT.reshape(-1, *self.shape).to(x, copy=True)  # An identity gives x itself.


@dataclass(frozen=True)
class _WithAdjoint:
    """``forward``, whose gradient is ``adjoint``."""

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return with_adjoint(x, self.forward, self.adjoint)


@dataclass(frozen=True)
class _Converted:
    """``function``, computed on ``device`` in ``dtype``, whatever ``x`` is."""

    function: Callable[[Tensor], Any]
    device: torch.device
    dtype: torch.dtype

    def __call__(self, x: Tensor) -> Any:
        y = self.function(x.to(self.device, self.dtype))
        return y.to(x) if isinstance(y, Tensor) and y.is_floating_point() else y


def from_deepinv(
    physics: Any,
    in_shape: Sequence[int],
    *,
    sigma_y: float | None = None,
    noise: Noise | None = None,
    autodiff: bool = False,
) -> Operator:
    r"""Return a ``physics`` of deepinv as an operator: a ``LinearOperator`` where it is linear.

    It is computed on the device and in the precision of its own tensors, whatever ``x`` is: move it first, by
    ``physics.to(...)``. Where it has one of our operators for a counterpart, that is faster and solves in closed form.

    Values of ``y`` that a linear physics leaves 0 for every ``x``, as its masks do, are missing: they carry no noise. Stacked
    physics become a :func:`stack`, whose ``y`` is their measurements, flattened. Images of deepinv span [0, 1], those of the
    priors here [-1, 1]: what is not linear, and noise that was measured for the former, has to be converted.

    Args:
        physics: Has ``A``, and ``A_adjoint`` if it is linear: ``deepinv.physics.Physics`` or anything like it.
        in_shape: Shape of one ``x``, without the batch axis.
        sigma_y: Noise standard deviation, in the units of ``y``. Default: that of ``physics.noise_model``.
        noise: A noise model, instead of ``sigma_y``.
        autodiff: Take the adjoint from automatic differentiation, for physics whose own is an approximation.

    Raises:
        TypeError: If ``physics`` has no ``A``, or one that does not return a real tensor.
        ValueError: If ``A_adjoint`` is not the adjoint, if the noise of the physics is not Gaussian of one level and none is
            given, or if it has a sensor model.
    """
    owner, is_module = f"from_deepinv: {type(physics).__name__}", isinstance(physics, torch.nn.Module)
    if not callable(getattr(physics, "A", None)):
        raise TypeError(f"{owner} has no method A.")
    parts = getattr(physics, "physics_list", None)
    if isinstance(parts, list):  # Stacked; those of a composition are in a ModuleList.
        return stack([from_deepinv(part, in_shape, sigma_y=sigma_y, noise=noise, autodiff=autodiff) for part in parts])
    noise = _noise_of(owner, physics) if sigma_y is None and noise is None else noise_of(sigma_y or 0.0, noise)
    tensors = [*physics.buffers(), *physics.parameters()] if is_module else []
    kinds = [tensor.dtype.to_real() for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()]
    dtype = reduce(torch.promote_types, kinds) if kinds else torch.get_default_dtype()
    device = tensors[0].device if tensors else torch.device("cpu")

    forward = _Converted(physics.A, device, dtype)
    probe = torch.randn(1, *in_shape, generator=torch.Generator().manual_seed(0), dtype=dtype).to(device)
    with torch.no_grad():
        y = forward(probe)
    sensor = getattr(physics, "sensor_model", None)
    if sensor is not None and not torch.equal(sensor(y), y):
        raise ValueError(
            f"{owner}: its sensor_model, which acts on the noisy measurement, has no counterpart. "
            "Set physics.sensor_model = lambda y: y, and give what it does as a noise model."
        )
    if not hasattr(physics, "A_adjoint"):
        return Function(forward, in_shape, noise=noise, device=device, dtype=dtype)
    try:
        adjoint = None if autodiff else _Converted(physics.A_adjoint, device, dtype)
        op = LinearFunction(forward, in_shape, adjoint=adjoint, noise=noise_of(0.0, None), device=device, dtype=dtype)
    except NotLinearError:
        return Function(forward, in_shape, noise=noise, device=device, dtype=dtype)
    except ValueError as error:
        raise ValueError(f"{owner}: {error} The option for that is autodiff=True.") from error
    measured = y[0] != 0
    if measured.all():
        op.noise = noise
        return op
    mask = Mask(measured)
    mask.noise = noise
    return mask @ op


def _noise_of(owner: str, physics: Any) -> Noise:
    """Return the counterpart of ``physics.noise_model``."""
    model = getattr(physics, "noise_model", None)
    kind, sigma = type(model).__name__, getattr(model, "sigma", None)
    if model is None or kind == "ZeroNoise":
        return noise_of(0.0, None)
    if kind != "GaussianNoise" or not isinstance(sigma, Tensor) or sigma.numel() != 1:
        raise ValueError(
            f"{owner}: only Gaussian noise of one level has a counterpart, got {kind}. "
            "Give sigma_y or noise, in the units of y."
        )
    return noise_of(float(sigma), None)
