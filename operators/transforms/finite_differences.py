"""Finite differences of neighboring entries: gradients of images, rates from levels."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from invdiff.cosine_transform import CosineTransform
from invdiff.linalg import over_items

from ..core.autograd import with_adjoint
from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator, pseudo_divide
from ..core.svd import SVD
from ..core.validation import event_shape

__all__ = ["DIFFERENCE_BOUNDARIES", "DifferencesSVD", "FiniteDifferences"]

DIFFERENCE_BOUNDARIES = ("circular", "replicate", "zero")


class FiniteDifferences(LinearOperator):
    r"""Forward differences along one or more axes.

    .. math:: y_{a, i} = x_{i + e_a} - x_i + n_{a, i}, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    ========= ============================================= =======================================================
    boundary  the entry after the last                      null space
    ========= ============================================= =======================================================
    circular  the first                                     constant images
    replicate the last: that difference is not measured     constant images
    zero      0                                             none
    ========= ============================================= =======================================================

    With more than one axis there are more measurements than unknowns. :math:`A^\top A` is a second difference, which is
    diagonal in a Fourier or cosine basis, so all methods have closed forms at a cost of :math:`O(N \log N)`:

    .. math:: (A A^\top + \lambda I)^{-1} v = A (A^\top A + \lambda I)^{-1} A^+ v + (v - A A^+ v) / \lambda,
        \qquad A^+ = (A^\top A)^+ A^\top

    without the last term for :math:`\lambda = 0`. With ``replicate`` the last entries of ``y`` along each axis are exactly 0
    and have no noise; ``dof`` does not count them.

    Args:
        in_shape: Shape of one ``x``, without the batch axis; any number of axes.
        axes: Axes of ``in_shape`` to take differences along, distinct, of length at least 2. Measurements have the shape
            ``(B, len(axes), *in_shape)``.
        boundary: One of ``DIFFERENCE_BOUNDARIES``.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        TypeError: If an axis is not an integer.
        ValueError: If the boundary is unknown, if there is no axis, or if an axis does not exist, is repeated or has length 1.
    """

    closed_form = True

    def __init__(
        self,
        in_shape: Sequence[int],
        *,
        axes: Sequence[int] = (-2, -1),
        boundary: str = "circular",
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        self.in_shape = shape = event_shape("FiniteDifferences", in_shape)
        if boundary not in DIFFERENCE_BOUNDARIES:
            raise ValueError(
                f"FiniteDifferences: unknown boundary {boundary!r}, expected one of {', '.join(DIFFERENCE_BOUNDARIES)}."
            )
        given = [operator.index(axis) for axis in axes]
        if not given or not all(-len(shape) <= axis < len(shape) for axis in given):
            raise ValueError(f"FiniteDifferences: axes must be axes of in_shape {shape}, without the batch axis, got {axes!r}.")
        # Counted from the end, so that a batch axis does not matter.
        self.axes, self.boundary = tuple(axis % len(shape) - len(shape) for axis in given), boundary
        if len(set(self.axes)) < len(given) or min(shape[axis] for axis in self.axes) < 2:
            raise ValueError(
                f"FiniteDifferences: axes must be distinct and have a length of at least 2, got {axes!r} for in_shape {shape}."
            )
        self.out_shape, self.noise = (len(given), *shape), noise_of(sigma_y, noise)
        self.basis = DifferencesSVD(shape, self.axes, boundary)

    @property
    def dof(self) -> int:
        return int(self.keep_measured(torch.ones(1, *self.out_shape)).sum())

    def forward(self, x: Tensor) -> Tensor:
        return with_adjoint(x, self._forward, self._adjoint)

    def keep_measured(self, y: Tensor) -> Tensor:
        if self.boundary != "replicate":
            return y
        kept = y.clone()
        for i, axis in enumerate(self.axes):
            kept.select(1, i).narrow(axis, -1, 1).zero_()
        return kept

    def adjoint(self, y: Tensor) -> Tensor:
        return with_adjoint(y, self._adjoint, self._forward)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        x = self.pinv(v)
        outside = pseudo_divide(v - self.forward(x), v.new_zeros(()), over_items(lam, v) if isinstance(lam, Tensor) else lam)
        return self.forward(self._divide(x, lam)) + outside

    def pinv(self, y: Tensor) -> Tensor:
        return self._divide(self.adjoint(y), 0.0)

    def prox(self, z: Tensor, y: Tensor, rho: Tensor | float) -> Tensor:
        # Avoids the component of solve outside the range of A, which is large for a small rho.
        return z + self._divide(self.adjoint(y - self.forward(z)), rho)

    def _forward(self, x: Tensor) -> Tensor:
        y = x.new_zeros(len(x), *self.out_shape)
        for part, axis in zip(y.unbind(1), self.axes, strict=True):
            inner, first, last = x.shape[axis] - 1, x.narrow(axis, 0, 1), x.narrow(axis, -1, 1)
            part.narrow(axis, 0, inner).copy_(x.narrow(axis, 1, inner)).sub_(x.narrow(axis, 0, inner))
            if self.boundary != "replicate":
                part.narrow(axis, inner, 1).copy_(first - last if self.boundary == "circular" else -last)
        return y

    def _adjoint(self, y: Tensor) -> Tensor:
        return _differences_adjoint(y, self.axes, self.boundary)

    def _divide(self, x: Tensor, lam: Tensor | float) -> Tensor:
        r"""Return :math:`(A^\top A + \lambda I)^{-1} x`, or the pseudo-inverse, for an ``x`` in the range of :math:`A^\top`."""
        lam = over_items(lam, x) if isinstance(lam, Tensor) else lam
        if self.boundary != "circular":
            return self.basis.synthesize(_divide_seen(self.basis.analyze(x), self.basis.gram.to(x), lam))
        # Half of the spectrum is enough for real signals.
        sides = [self.in_shape[axis] for axis in self.axes]
        half = self.basis.gram.narrow(self.axes[-1], 0, sides[-1] // 2 + 1).to(x)
        spectrum = _divide_seen(torch.fft.rfftn(x, dim=self.axes), half, lam)
        divided: Tensor = torch.fft.irfftn(spectrum, s=sides, dim=self.axes)
        return divided

    def _decompose(self) -> SVD:
        return self.basis


class DifferencesSVD(SVD):
    r"""SVD of finite differences: :math:`V` is the Hartley or a cosine transform; :math:`s^2` sums the eigenvalues of all axes.

    Coordinates have the layout of ``x``. The Hartley transform, for the boundary ``circular``, is :math:`\operatorname{Re} F -
    \operatorname{Im} F` over all the axes together. :math:`U^\top y = V^\top A^\top y / s`.

    Args:
        in_shape: Shape of one ``x``.
        axes: The axes of the differences, negative.
        boundary: One of ``DIFFERENCE_BOUNDARIES``.

    Attributes:
        gram: :math:`s^2`, broadcastable to ``in_shape``.
    """

    def __init__(self, in_shape: tuple[int, ...], axes: tuple[int, ...], boundary: str) -> None:
        self.shape, self.axes, self.boundary = in_shape, axes, boundary
        self.cosines = tuple(CosineTransform(in_shape[axis], ends=boundary == "zero") for axis in axes)
        self.gram = torch.zeros((), dtype=torch.float64)
        for axis, cosines in zip(axes, self.cosines, strict=True):
            side = in_shape[axis]
            waves = 4 * (torch.pi / side * torch.arange(side, dtype=torch.float64)).sin() ** 2
            eigenvalues = waves if boundary == "circular" else cosines.eigenvalues
            self.gram = self.gram + eigenvalues.reshape(-1, *(1,) * (-axis - 1))
        self.gram = self.gram.reshape(*(1,) * (len(in_shape) - self.gram.ndim), *self.gram.shape)
        self._values = self.gram.sqrt()

    def analyze(self, x: Tensor) -> Tensor:
        if self.boundary == "circular":
            spectrum: Tensor = torch.fft.fftn(x, dim=self.axes, norm="ortho")
            return spectrum.real - spectrum.imag
        return with_adjoint(x, self._to_cosines, self._from_cosines)

    def synthesize(self, x_bar: Tensor) -> Tensor:
        if self.boundary == "circular":
            return self.analyze(x_bar)
        return with_adjoint(x_bar, self._from_cosines, self._to_cosines)

    def _to_cosines(self, x: Tensor) -> Tensor:
        for axis, cosines in zip(self.axes, self.cosines, strict=True):
            x = cosines.analyze(x, axis)
        return x

    def _from_cosines(self, x_bar: Tensor) -> Tensor:
        for axis, cosines in zip(self.axes, self.cosines, strict=True):
            x_bar = cosines.synthesize(x_bar, axis)
        return x_bar

    def _rotate(self, y: Tensor) -> Tensor:
        gram = self.gram.to(y)
        return pseudo_divide(gram.sqrt() * self.analyze(_differences_adjoint(y, self.axes, self.boundary)), gram, 0.0)


def _differences_adjoint(y: Tensor, axes: tuple[int, ...], boundary: str) -> Tensor:
    x = torch.zeros_like(y[:, 0])
    for part, axis in zip(y.unbind(1), axes, strict=True):
        inner = part.shape[axis] - 1
        shared = part.narrow(axis, 0, inner)
        x.narrow(axis, 1, inner).add_(shared)
        x.narrow(axis, 0, inner).sub_(shared)
        if boundary != "replicate":
            last = part.narrow(axis, inner, 1)
            x.narrow(axis, inner, 1).sub_(last)
            if boundary == "circular":
                x.narrow(axis, 0, 1).add_(last)
    return x


def _divide_seen(coefficients: Tensor, gram: Tensor, lam: Tensor | float) -> Tensor:
    # Coefficients in the null space are 0 except for rounding errors, which a small lam would amplify.
    return torch.where(gram > 0, pseudo_divide(coefficients, gram, lam), 0)
