"""Adapters for operators of other libraries: ``deepinv``, ``mrpro``, ``scipy`` and objects with the same interface.

``deepinv``, mrpro and PyLops need not be installed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .algebra.stack import stack
from .core.noise import Noise, noise_of
from .core.operator import Operator
from .core.validation import event_shape
from .generic.function import Function, LinearFunction, NotLinearError
from .sampling.mask import Mask

__all__ = ["from_deepinv", "from_linear_operator", "from_mrpro"]


def from_linear_operator(
    linear_operator: Any,
    in_shape: Sequence[int],
    out_shape: Sequence[int] | None = None,
    *,
    sigma_y: float = 0.0,
    noise: Noise | None = None,
) -> LinearFunction:
    r"""Convert a ``scipy`` matrix or linear operator to an operator: :math:`y = A x + n`.

    It is always evaluated on the CPU in float64, and the result is converted to the dtype and the device of ``x``. Derivatives
    use the adjoint. For a dense matrix :class:`Matrix` is faster.

    Args:
        linear_operator: :math:`A`, of shape ``(m, n)``: a sparse matrix, an array, a ``scipy.sparse.linalg.LinearOperator``
            (as are those of PyLops), or any object with ``shape``, ``matvec`` and ``rmatvec``.
        in_shape: Shape of one ``x``, without the batch axis, with ``n`` entries.
        out_shape: Shape of one ``y``, without the batch axis, with ``m`` entries. Default: ``(m,)``.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        TypeError: If ``linear_operator`` is none of these, is complex, or has no ``rmatvec``.
        ValueError: If the shapes do not fit, or if ``rmatvec`` is not the adjoint of ``matvec``.
    """
    from scipy.sparse.linalg import aslinearoperator

    try:
        linear = aslinearoperator(linear_operator)
    except TypeError:
        raise TypeError(
            "from_linear_operator: expected a matrix, or an object with shape, matvec and rmatvec, "
            f"got {type(linear_operator).__name__}. For a callable use LinearFunction."
        ) from None
    if linear.dtype is not None and linear.dtype.kind == "c":
        raise TypeError(
            f"from_linear_operator: the operator must be real, got {linear.dtype}. Give an operator on the real and imaginary "
            "parts, as an additional axis of length 2."
        )
    outputs, inputs = linear.shape
    sides = event_shape("from_linear_operator", in_shape), (outputs,) if out_shape is None else tuple(out_shape)
    for name, side, count in (("in_shape", sides[0], inputs), ("out_shape", sides[1], outputs)):
        if torch.Size(side).numel() != count:
            raise ValueError(
                f"from_linear_operator: {name} must have {count} entries for an operator of shape {linear.shape}, got {side}."
            )
    try:
        linear.rmatvec(np.zeros(outputs))
    except (NotImplementedError, TypeError) as error:  # The type depends on the version of scipy.
        raise TypeError(
            f"from_linear_operator: rmatvec, the adjoint, is missing from {type(linear_operator).__name__}. "
            "It is needed to solve linear systems."
        ) from error
    forward, adjoint = _OfColumns(linear.matmat, sides[1]), _OfColumns(linear.rmatmat, sides[0])
    return LinearFunction(
        forward,
        sides[0],
        adjoint=adjoint,
        sigma_y=sigma_y,
        noise=noise,
        dtype=torch.float64,
    )


# Callables stored in an operator are classes, because closures cannot be pickled with it.


@dataclass(frozen=True)
class _OfColumns:
    """Apply ``product``, a map on the columns of an array, to a batch ``(B, *event)``; results have the shape ``shape``."""

    product: Callable[[Any], Any]
    shape: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        columns = self.product(x.detach().flatten(1).mT.to("cpu", torch.float64).numpy())
        return torch.from_numpy(columns).mT.reshape(-1, *self.shape).to(x, copy=True)  # An identity would return x itself.


@dataclass(frozen=True)
class _Converted:
    """``function``, always evaluated on ``device`` in ``dtype``, with the result converted back to those of ``x``."""

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
    r"""Convert a ``physics`` of deepinv to an operator: a ``LinearOperator`` if it is linear.

    The operator keeps a copy: a later ``physics.update(...)`` does not change it. It is always evaluated on the device and in
    the precision of its own tensors: move it first with ``physics.to(...)``. If invdiff has an operator for the same
    measurement, that is faster and has closed forms.

    Entries of ``y`` that a linear physics sets to 0 for every ``x``, as a mask does, are treated as missing: they have no
    noise. Stacked physics become a :func:`stack`, whose ``y`` is the concatenation of their flattened measurements. Physics
    with parameters for several items of a batch must be given one by one, and joined by :func:`per_item`.

    Images span [0, 1] in deepinv and [-1, 1] for the priors of invdiff. With :math:`u = (x + 1) / 2`, a linear measurement
    :math:`v = A u + n` is :math:`2 v - A 1 = A x + 2 n`: convert it by ``2 * v - op(torch.ones(1, *in_shape))``, and double the
    noise level. Nonlinear physics are composed with :class:`Affine`: ``op @ Affine(in_shape, 0.5, 0.5)``.

    Args:
        physics: A ``deepinv.physics.Physics``, or any object with a method ``A``, and ``A_adjoint`` if it is linear.
        in_shape: Shape of one ``x``, without the batch axis.
        sigma_y: Noise standard deviation, in the units of ``y``. Default: the level of ``physics.noise_model``.
        noise: A noise model, instead of ``sigma_y``.
        autodiff: If true, compute the adjoint by automatic differentiation, for physics whose own adjoint is only approximate.

    Raises:
        TypeError: If ``physics`` has no method ``A``, or ``A`` takes or returns something other than real tensors.
        ValueError: If ``A_adjoint`` is not the adjoint of ``A``, if the noise of the physics is not Gaussian with one level
            and no other noise is given, if the physics has a sensor model, or parameters for several items of a batch.
    """
    owner, is_module = f"from_deepinv: {type(physics).__name__}", isinstance(physics, torch.nn.Module)
    if not callable(getattr(physics, "A", None)):
        raise TypeError(f"{owner} has no method A.")
    parts = getattr(physics, "physics_list", None)
    if isinstance(parts, list):  # A stacked physics; a composition has a ModuleList.
        return stack([from_deepinv(part, in_shape, sigma_y=sigma_y, noise=noise, autodiff=autodiff) for part in parts])
    physics = _copied(owner, physics)
    noise = _noise_of(owner, physics) if sigma_y is None and noise is None else noise_of(sigma_y or 0.0, noise)
    tensors = [*physics.buffers(), *physics.parameters()] if is_module else []
    kinds = [tensor.dtype.to_real() for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()]
    dtype = reduce(torch.promote_types, kinds) if kinds else torch.get_default_dtype()
    device = tensors[0].device if tensors else torch.device("cpu")

    forward = _Converted(physics.A, device, dtype)
    probe = torch.randn(1, *in_shape, generator=torch.Generator().manual_seed(0), dtype=dtype).to(device)
    y = _first_measurement(owner, forward, probe, tensors)
    sensor = getattr(physics, "sensor_model", None)
    if sensor is not None and not torch.equal(sensor(y), y):
        raise ValueError(
            f"{owner}: its sensor_model, which acts on the noisy measurement, has no counterpart in invdiff. "
            "Set physics.sensor_model = lambda y: y, and describe its effect by a noise model."
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


def from_mrpro(
    linear_operator: Any,
    in_shape: Sequence[int],
    *,
    sigma_y: float = 0.0,
    noise: Noise | None = None,
) -> LinearFunction:
    r"""Convert a ``LinearOperator`` of mrpro to an operator on real numbers: non-uniform trajectories, coils, and compositions.

    ``x`` is ``(B, 2, ..., H, W)``, with the real and the imaginary part of a complex image as channels; ``y`` is what the
    operator returns for one image, with both parts along a last axis of length 2. The adjoint of mrpro is that of complex
    numbers, which on real ones is the transpose: :math:`\langle A x, y \rangle = \mathrm{Re}\, y^* A x`. :class:`MRI` is faster
    for Cartesian sampling.

    >>> op = from_mrpro(fourier_op @ csm.as_operator(), (2, 256, 256), sigma_y=0.01)  # doctest: +SKIP
    >>> post = PosteriorSampler(priors.Complex(prior), op).run(y)  # doctest: +SKIP

    Images of mrpro have the axes ``(other, coils, z, y, x)``: axes that ``in_shape`` lacks have length 1. Items of a batch are
    measured one by one, so the operator must be that of one item: ``other`` is 1, or an axis of ``in_shape``. It is evaluated
    on the device and in the precision of its own tensors, and the operator keeps a copy of it.

    Args:
        linear_operator: A ``mrpro.operators.LinearOperator``, or any object that maps a complex tensor to a tuple of one when
            it is called, as its method ``adjoint`` does.
        in_shape: Shape of one ``x``, without the batch axis: ``(2, H, W)``, ``(2, z, y, x)``, ...
        sigma_y: Noise standard deviation of the real and of the imaginary part, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        TypeError: If it is no such object, cannot be copied, or returns something other than one tensor.
        ValueError: If ``in_shape`` does not begin with 2, the operator does not take such an image, or ``adjoint`` is not its
            adjoint.
    """
    owner, is_module = f"from_mrpro: {type(linear_operator).__name__}", isinstance(linear_operator, torch.nn.Module)
    shape = event_shape("from_mrpro", in_shape)
    if not callable(linear_operator) or not callable(getattr(linear_operator, "adjoint", None)):
        raise TypeError(f"{owner} has no method adjoint: expected a LinearOperator of mrpro.")
    if shape[0] != 2 or not 2 <= len(shape) <= 1 + MRPRO_AXES:
        raise ValueError(
            f"{owner}: in_shape must be (2, ..., H, W), real and imaginary part of at most {MRPRO_AXES} axes, got {shape}."
        )
    linear_operator = _copied(owner, linear_operator)
    tensors = [*linear_operator.buffers(), *linear_operator.parameters()] if is_module else []
    kinds = [tensor.dtype.to_real() for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()]
    dtype = reduce(torch.promote_types, kinds) if kinds else torch.get_default_dtype()
    device = tensors[0].device if tensors else torch.device("cpu")
    axes = (1,) * (MRPRO_AXES - len(shape) + 1) + shape[1:]
    probe = torch.zeros(axes, dtype=dtype.to_complex(), device=device)
    try:
        y = _only(owner, linear_operator(probe))
    except (RuntimeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{owner} cannot be applied to an image of shape {axes}: {reason}. Check in_shape={shape}.") from error
    forward = _Converted(_ByItem(owner, linear_operator, axes, to_image=False), device, dtype)
    adjoint = _Converted(_ByItem(owner, linear_operator.adjoint, tuple(y.shape), to_image=True, image=shape), device, dtype)
    try:
        return LinearFunction(forward, shape, adjoint=adjoint, sigma_y=sigma_y, noise=noise, device=device, dtype=dtype)
    except (NotLinearError, ValueError) as error:
        raise ValueError(f"{owner}: {error}") from error


MRPRO_AXES = 5  # of its images: other, coils, z, y, x


@dataclass(frozen=True)
class _ByItem:
    """A map of complex tensors as one of real tensors, item by item.

    Attributes:
        owner: Its name in errors.
        function: Takes a complex tensor, and returns a tuple of one.
        shape: Shape of what it takes.
        to_image: Whether real and imaginary part are the last axis of what is given, and channels of what is returned;
            otherwise the other way round.
        image: Shape of an image, with its channels.
    """

    owner: str
    function: Callable[[Tensor], Any]
    shape: tuple[int, ...]
    to_image: bool
    image: tuple[int, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack([self._one(item) for item in x])

    def _one(self, x: Tensor) -> Tensor:
        parts = x.unbind(-1 if self.to_image else 0)
        y = _only(self.owner, self.function(torch.complex(*parts).reshape(self.shape)))
        if self.to_image:
            return torch.stack([y.real, y.imag]).reshape(self.image)
        return torch.view_as_real(y.resolve_conj())


def _only(owner: str, returned: Any) -> Tensor:
    """Return the complex tensor of a tuple of one."""
    if isinstance(returned, tuple) and len(returned) == 1 and isinstance(returned[0], Tensor):
        (y,) = returned
        return y if y.is_complex() else torch.complex(y, torch.zeros_like(y))
    raise TypeError(f"{owner}: expected a tuple of one tensor, as operators of mrpro return, got {type(returned).__name__}.")


def _copied(owner: str, physics: Any) -> Any:
    """Return a copy, which does not follow later changes of its parameters."""
    modules = physics.modules() if isinstance(physics, torch.nn.Module) else ()
    kept = (value for module in modules for value in (*vars(module).values(), *module._buffers.values()))
    memo: dict[int, Any] = {
        id(value): value.detach().clone() for value in kept if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(physics, memo)
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{owner} cannot be copied ({error}). Give its maps to LinearFunction or Function instead.") from error


def _first_measurement(owner: str, forward: Callable[[Tensor], Any], probe: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Return the measurement of one item; raise an error if that is not possible, or not one real measurement."""
    try:
        with torch.no_grad():
            y = forward(probe)
            again = forward(torch.cat([probe] * 3))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        sizes = {len(tensor) for tensor in tensors if tensor.ndim > 3 and len(tensor) > 1}
        hint = f" Its parameters have {max(sizes)} rows: {PER_ITEM}" if sizes else f" Check in_shape={tuple(probe.shape[1:])}."
        reason = " ".join(str(error).split())
        raise ValueError(f"{owner}: A cannot be applied to real tensors of shape (B, *in_shape): {reason}.{hint}") from error
    if not isinstance(y, Tensor) or not y.is_floating_point():
        got = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(
            f"{owner}: A must return a real floating-point tensor, got {got}. Give complex tensors as real ones, with real and "
            "imaginary parts as an axis of length 2: Function(lambda x: torch.view_as_real(physics.A(x)), in_shape)."
        )
    if len(y) != 1 or len(again) != 3:
        raise ValueError(f"{owner} has parameters for {len(y)} items: A maps 1 item to {len(y)}. {PER_ITEM}")
    return y


PER_ITEM = "Give one physics for each item: per_item([from_deepinv(one, in_shape) for one in several])."


def _noise_of(owner: str, physics: Any) -> Noise:
    """Return the counterpart of ``physics.noise_model``."""
    model = getattr(physics, "noise_model", None)
    kind, sigma = type(model).__name__, getattr(model, "sigma", None)
    if model is None or kind == "ZeroNoise":
        return noise_of(0.0, None)
    if kind != "GaussianNoise" or not isinstance(sigma, Tensor) or sigma.numel() != 1:
        raise ValueError(
            f"{owner}: only Gaussian noise with one level has a counterpart in invdiff, got {kind}. "
            "Give sigma_y or noise, in the units of y."
        )
    return noise_of(float(sigma), None)
