"""Any callable as an operator: its adjoint and derivatives are computed by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from invdiff.linalg import dot, norm

from ..core.autograd import with_adjoint
from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator, Operator
from ..core.trial import checked_call, try_function
from ..core.validation import event_shape

__all__ = ["Function", "LinearFunction", "NotLinearError"]


class Function(Operator):
    r"""Any differentiable measurement, linear or not.

    .. math:: y = f(x) + n, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    Derivatives are computed by ``torch.func``. For a linear callable use :class:`LinearFunction`, which has ``adjoint`` and
    ``solve``.

    Args:
        function: :math:`f`: takes ``(B, *in_shape)`` and returns a real tensor whose first axis is the batch, in the dtype
            and on the device of ``x``. Each item must depend only on its own ``x``. Tried on random items, two at a time.
        in_shape: Shape of one ``x``, without the batch axis.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.
        device: Device of the trial. Default: the CPU.
        dtype: Dtype of the trial. Default: torch's default dtype.
        surrogate: Whether autograd returns a surrogate (straight-through) gradient, which differs from the derivative.

    Raises:
        TypeError: If the function does not return a real tensor.
        ValueError: If the first axis of the returned tensor is not the batch, or if the function mixes the items of a batch,
            is random, changes its argument in place, has no gradient, or one that is not its derivative.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        in_shape: Sequence[int],
        *,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        surrogate: bool = False,
    ) -> None:
        self.function, self.in_shape = function, event_shape("Function", in_shape)
        self.device, self.dtype, self.surrogate = device, dtype, surrogate
        zeros = torch.zeros(1, *self.in_shape, device=device or "cpu", dtype=dtype)
        self.out_shape = tuple(checked_call("Function", function, zeros).shape[1:])
        try_function("Function", function, self.in_shape, device=device, dtype=dtype, linear=False, surrogate=surrogate)
        self.noise = noise_of(sigma_y, noise)

    def _summary(self) -> Sequence[str]:
        return (getattr(self.function, "__qualname__", type(self.function).__name__).rpartition(".")[2],)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class NotLinearError(ValueError):
    """Raised if the callable given to :class:`LinearFunction` is not linear."""


class LinearFunction(LinearOperator):
    r"""Any linear measurement, given as a callable.

    .. math:: y = A x + n, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    ``solve`` uses the eigenvectors of :math:`A A^\top` for a measurement dimension of at most 512, and conjugate gradients
    beyond.

    Args:
        function: :math:`x \mapsto A x`: takes ``(B, *in_shape)`` and returns a real tensor whose first axis is the batch, in
            the dtype and on the device of ``x``. Each item must depend only on its own ``x``. Tried on random items.
        in_shape: Shape of one ``x``, without the batch axis.
        adjoint: :math:`y \mapsto A^\top y`, on ``(B, *out_shape)``. Default: by automatic differentiation of ``function``. If
            given, neither of the two is differentiated, so they may use numpy.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.
        device: Device of the trial. Default: the CPU.
        dtype: Dtype of the trial. Default: torch's default dtype.

    Raises:
        TypeError: If a callable does not return a real tensor.
        NotLinearError: If the function is not linear.
        ValueError: If the first axis of a returned tensor is not the batch, if ``adjoint`` is not the adjoint of ``function``,
            or if ``function`` mixes the items of a batch, is random, changes its argument in place or, without ``adjoint``, has
            no gradient or a wrong one.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        in_shape: Sequence[int],
        *,
        adjoint: Callable[[Tensor], Tensor] | None = None,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.function, self.transpose, self.in_shape = function, adjoint, event_shape("LinearFunction", in_shape)
        self.noise, self.device, self.dtype = noise_of(sigma_y, noise), device, dtype
        checked_call("LinearFunction", function, torch.zeros(1, *self.in_shape, device=device or "cpu", dtype=dtype))
        try_function(
            "LinearFunction", function, self.in_shape, device=device, dtype=dtype, linear=True, gradient=adjoint is None
        )
        g = torch.Generator().manual_seed(0)
        a, b = torch.randn(2, 1, *self.in_shape, generator=g, dtype=dtype, device="cpu").to(device or "cpu")
        y_a, y_b, y_sum = checked_call("LinearFunction", function, torch.cat([a, b, a + b])).chunk(3)
        self.out_shape = tuple(y_a.shape[1:])
        # Large enough for the rounding errors of any callable, small enough to find any relevant nonlinearity.
        tolerance = torch.finfo(a.dtype).eps ** 0.5
        gap, size = norm(y_sum - y_a - y_b), norm(y_a) + norm(y_b)
        if not (gap <= tolerance * size).all():
            raise NotLinearError(
                "LinearFunction: the function is not linear: f(a + b) differs from f(a) + f(b) by a relative error of "
                f"{float(gap / size):.2g}. Use Function, or remove the constant part."
            )
        if adjoint is not None:
            x = checked_call("LinearFunction: adjoint", adjoint, y_sum)
            if tuple(x.shape[1:]) != self.in_shape:
                raise ValueError(f"LinearFunction: adjoint must return shape {tuple(a.shape)} here, got {tuple(x.shape)}.")
            gap, size = (dot(y_a, y_sum) - dot(a, x)).abs(), norm(y_a) * norm(y_sum)
            if not (gap <= tolerance * size).all():
                raise ValueError(
                    "LinearFunction: adjoint is not the adjoint of the function: <A a, y> differs from <a, A^T y> by "
                    f"{float(gap / size):.2g} times |A a||y|. Omit it to use automatic differentiation."
                )

    def _summary(self) -> Sequence[str]:
        return (getattr(self.function, "__qualname__", type(self.function).__name__).rpartition(".")[2],)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) if self.transpose is None else with_adjoint(x, self.function, self.transpose)

    def adjoint(self, y: Tensor) -> Tensor:
        return super().adjoint(y) if self.transpose is None else with_adjoint(y, self.transpose, self.function)
