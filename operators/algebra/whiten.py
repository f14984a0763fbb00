r"""Whitening: a measurement multiplied by an inverse square root of its noise covariance, so that its noise is white."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.noise import GaussianNoise, Noise
from ..core.operator import LinearOperator, Operator
from ..core.svd import SVD, SameBasisSVD
from .combination import name_in_formula
from .per_item import LinearPerItem, PerItem, distribute

__all__ = ["Whitened", "WhitenedLinear", "linearize", "whiten"]


def whiten(op: Operator) -> Operator:
    r"""Return :math:`W A` with noise of variance 1, if the noise of ``op`` is Gaussian and not white; else ``op`` itself.

    :math:`W \Sigma W^\top = I`. The corresponding measurement is ``op.noise.whiten(y)``.

    Raises:
        ValueError: If the noise is correlated and some entries of ``y`` are not measured.
    """
    if op.noise.white or not op.noise.gaussian:
        return op
    if not op.complete and not isinstance(op.noise, GaussianNoise):
        raise ValueError(
            f"whiten: {op.noise!r} correlates missing entries of {type(op).__name__} with measured ones. Use an operator whose "
            "output has only the measured entries, such as Matrix or LinearFunction, and give the noise of these entries."
        )
    if isinstance(op, PerItem):
        return distribute(whiten, op)
    return WhitenedLinear(op, op.noise) if isinstance(op, LinearOperator) else Whitened(op, op.noise)


def linearize(op: Operator, y: Tensor, x: Tensor, *, noise_at: Tensor | None = None) -> tuple[LinearOperator, Tensor, float]:
    r"""Linearize a measurement at ``x`` with white noise: return the Jacobian, :math:`y - A(x)` and :math:`\sigma_y`.

    If the noise is not white Gaussian, the Jacobian and the residual are divided by the standard deviations of the Gaussian
    approximation of the noise at ``x`` (:meth:`~invdiff.operators.Noise.variance`), and the returned :math:`\sigma_y` is 1.

    Args:
        op: The measurement operator.
        y: The measurement, ``(B, *op.out_shape)``.
        x: The point of linearization, ``(B, *op.in_shape)``.
        noise_at: The point at which the variance of the noise is evaluated, such as a better estimate of the truth,
            ``(B, *op.in_shape)``. Default: ``x``.
    """
    clean, linear = op.linearized(x)
    if op.noise.white:
        return linear, y - clean, op.sigma_y
    deviations = op.noise.variance(y, clean if noise_at is None else op(noise_at)).sqrt()
    deviations = deviations.expand_as(y) if deviations.ndim == y.ndim else deviations
    gaussian, each = GaussianNoise(deviations), deviations.ndim == y.ndim

    def whitened(part: LinearOperator, rows: list[int]) -> LinearOperator:
        return WhitenedLinear(part, GaussianNoise(deviations[rows]) if each else gaussian)

    white = linear.map(whitened) if isinstance(linear, LinearPerItem) else WhitenedLinear(linear, gaussian)
    return white, op.keep_measured(gaussian.whiten(y - clean)), 1.0


class Whitened(Operator):
    """A whitened nonlinear measurement.

    Args:
        op: The measurement operator.
        original: The noise to be whitened.
    """

    def __init__(self, op: Operator, original: Noise) -> None:
        self.op, self.original, self.noise = op, original, GaussianNoise(1.0)
        self.in_shape, self.out_shape, self.device, self.dtype = op.in_shape, op.out_shape, op.device, op.dtype
        self.surrogate = op.surrogate

    @property
    def dof(self) -> int | Tensor:
        return self.op.dof

    def _summary(self) -> Sequence[str]:
        return (f"of {name_in_formula(self.op)}",)

    def forward(self, x: Tensor) -> Tensor:
        return self.original.whiten(self.op.forward(x))

    def keep_measured(self, y: Tensor) -> Tensor:
        return self.op.keep_measured(y)


class WhitenedLinear(LinearOperator):
    r"""A whitened linear measurement :math:`W A`.

    ``solve`` is dense for small measurements, else by conjugate gradients. For independent noise with a separate variance for
    each entry they are preconditioned by ``op``: :math:`(W A A^\top W^\top + \lambda I)^{-1} =
    L^\top (A A^\top + \lambda \Sigma)^{-1} L`, with :math:`\Sigma` replaced by one variance for all entries.

    Args:
        op: The measurement operator.
        original: The noise to be whitened; standard deviations may also differ between items, ``(B, *out_shape)``.
    """

    def __init__(self, op: LinearOperator, original: Noise) -> None:
        self.op, self.original, self.noise = op, original, GaussianNoise(1.0)
        self.in_shape, self.out_shape, self.device, self.dtype = op.in_shape, op.out_shape, op.device, op.dtype
        deviations = original.deviations if isinstance(original, GaussianNoise) else None
        missing = 0 if deviations is None else max(0, len(self.out_shape) - deviations.ndim)
        self.deviations = None if deviations is None else deviations[(None,) * missing]  # One axis for each axis of y.

    @property
    def items(self) -> int | None:
        return super().items if self._levels is None else len(self._levels)

    def take(self, rows: Sequence[int]) -> LinearOperator:
        if self._levels is None:
            return super().take(rows)
        return WhitenedLinear(self.op.take(rows), GaussianNoise(self._levels[list(rows)]))

    @property
    def _levels(self) -> Tensor | None:
        """Return the standard deviations of every item, if they differ between items."""
        several = self.deviations is not None and self.deviations.ndim > len(self.out_shape)
        return self.deviations if several else None

    @property
    def dof(self) -> int | Tensor:
        return self.op.dof

    def _summary(self) -> Sequence[str]:
        return (f"of {name_in_formula(self.op)}",)

    def forward(self, x: Tensor) -> Tensor:
        return self.original.whiten(self.op.forward(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.op.adjoint(self.original.whiten_adjoint(y))

    def keep_measured(self, y: Tensor) -> Tensor:
        return self.op.keep_measured(y)

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        if self._small or self.deviations is None or not self.op.closed_form:
            return super().precondition(v, lam)
        deviations = self.deviations.to(v)
        axes = tuple(range(-len(self.out_shape), 0))
        variance = deviations.square().mean(axes, keepdim=True)
        return deviations * self.op.precondition(deviations * v, lam * variance)

    def _decompose(self) -> SVD | None:
        svd, deviations = self.op.svd, self.deviations
        if svd is None or deviations is None or self.per_item:
            return super()._decompose()
        if svd.kind == "pixel":  # Every measured entry is an entry of x, so weights of y become weights of x.
            ones = torch.ones(1, *self.out_shape, dtype=deviations.dtype, device=deviations.device)
            return RescaledSVD(svd, self.op.adjoint(ones / deviations)[0])
        if svd.kind == "dense":
            return super()._decompose()
        levels = deviations.broadcast_to(self.out_shape).flatten(1)
        if (levels == levels[:, :1]).all():  # One per channel, and V acts on channels separately.
            return RescaledSVD(svd, svd._values / levels[:, 0].reshape(-1, *(1,) * (len(svd.shape) - 1)))
        return super()._decompose()


class RescaledSVD(SameBasisSVD):
    r"""SVD of :math:`W A` with a diagonal :math:`W > 0` that only scales the columns of :math:`U`, so the singular values."""

    def _rotate(self, y: Tensor) -> Tensor:
        return self.svd._rotate(y)
