"""Cumulative sums along an axis, for integrating detectors and for estimating increments from totals."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from invdiff.cosine_transform import CosineTransform
from invdiff.linalg import over_items

from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator, pseudo_divide
from ..core.svd import SVD
from ..core.validation import event_shape

__all__ = ["CumulativeSum", "CumulativeSumSVD"]


class CumulativeSum(LinearOperator):
    r"""Cumulative sums along an axis, starting at its first entry.

    .. math:: y_i = \sum_{j \le i} x_j + n_i, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    :math:`A` is square and invertible, :math:`x_i = y_i - y_{i-1}`: ``pinv`` computes differences. :math:`(A A^\top)^{-1}` is
    the second difference with a mirrored boundary at one end and a zero boundary at the other, which is diagonal in a cosine
    basis: ``solve`` and ``svd`` have closed forms at a cost of :math:`O(N \log N)`. The singular values
    :math:`1 / (2 \sin \tfrac{\pi (2 k + 1)}{2 (2 n + 1)})` range from 0.5 to about :math:`2 n / \pi`.

    Args:
        in_shape: Shape of one ``x``, without the batch axis; any number of axes.
        axis: Axis of summation, an axis of ``in_shape``, counted from its start, or from its end if negative.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        TypeError: If ``axis`` is not an integer.
        ValueError: If there is no such axis.
    """

    closed_form = True

    def __init__(self, in_shape: Sequence[int], axis: int, *, sigma_y: float = 0.0, noise: Noise | None = None) -> None:
        self.in_shape = self.out_shape = event_shape("CumulativeSum", in_shape)
        if not -len(self.in_shape) <= operator.index(axis) < len(self.in_shape):
            raise ValueError(f"CumulativeSum: there is no axis {axis} in in_shape {self.in_shape}, which has no batch axis.")
        self.axis = axis % len(self.in_shape) - len(self.in_shape)  # From the end, so that a batch axis does not matter.
        self.cosines = CosineTransform(self.in_shape[self.axis], ends=True)
        self.noise = noise_of(sigma_y, noise)

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(self.axis)

    def adjoint(self, y: Tensor) -> Tensor:
        return y.flip(self.axis).cumsum(self.axis).flip(self.axis)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        gram = _along(1 / self.cosines.eigenvalues, self.axis).to(v)
        coefficients = self.cosines.analyze(v.flip(self.axis), self.axis)
        solved = pseudo_divide(coefficients, gram, over_items(lam, v) if isinstance(lam, Tensor) else lam)
        return self.cosines.synthesize(solved, self.axis).flip(self.axis)

    def pinv(self, y: Tensor) -> Tensor:
        return y.diff(dim=self.axis, prepend=torch.zeros_like(y.narrow(self.axis, 0, 1)))

    def _decompose(self) -> SVD:
        return CumulativeSumSVD(self.in_shape, self.axis, self.cosines)


class CumulativeSumSVD(SVD):
    r"""SVD of cumulative sums: :math:`V` are cosines that are 0 one step after the end, :math:`U` the same cosines reversed.

    Coordinates have the layout of ``x``, in descending order of their singular values :math:`1 / (2 \sin(\theta_k / 2))` along
    the axis. The columns of :math:`U` have alternating signs.

    Args:
        in_shape: Shape of one ``x``.
        axis: Axis of summation, negative.
        cosines: The cosine transform of the length of that axis, with ``ends=True``.
    """

    def __init__(self, in_shape: tuple[int, ...], axis: int, cosines: CosineTransform) -> None:
        self.shape, self.axis, self.cosines = in_shape, axis, cosines
        self._values = _along(cosines.eigenvalues**-0.5, axis)
        self.signs = _along(1.0 - 2.0 * (torch.arange(in_shape[axis]) % 2).to(self._values), axis)

    def analyze(self, x: Tensor) -> Tensor:
        return self.cosines.analyze(x, self.axis)

    def synthesize(self, x_bar: Tensor) -> Tensor:
        return self.cosines.synthesize(x_bar, self.axis)

    def _rotate(self, y: Tensor) -> Tensor:
        return self.signs.to(y) * self.cosines.analyze(y.flip(self.axis), self.axis)


def _along(values: Tensor, axis: int) -> Tensor:
    """Reshape ``values`` of shape ``(n,)`` so that they broadcast along a negative ``axis``."""
    return values.reshape(-1, *(1,) * (-axis - 1))
