r"""Singular value decompositions :math:`A = U \operatorname{diag}(s) V^\top`, applied without ever being written out.

Here are the interface and the two decompositions that belong to no operator in particular; the others stand beside the
operator whose structure they use.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from .movable import Movable

__all__ = ["SVD", "CoordinateSVD", "DenseSVD"]


class SVD(Movable, ABC):
    r"""A singular value decomposition of a linear operator, :math:`A = U \operatorname{diag}(s) V^\top`.

    Everything is expressed in the *spectral coordinates* :math:`\bar x = V^\top x`, real, over a complete orthonormal basis
    of the space of ``x``: null space included, where :math:`s_i = 0`. So white noise is white in spectral coordinates too,
    squared norms are kept, and a Gaussian that is isotropic stays so. Which coordinate comes where is up to the operator.

    Methods compute in the dtype and on the device of what they are given. To spare them the conversion, and to have
    ``singular`` cut at the rounding of the data, move the decomposition once: ``op.svd.to(y.device, y.dtype)``.

    Attributes:
        shape: Shape of the coordinates of one ``x``, without the batch axis: as many numbers as ``x`` has.
    """

    shape: tuple[int, ...]
    _values: Tensor  # Broadcastable to ``shape``, rounding included.

    @property
    def singular(self) -> Tensor:
        r"""The singular values :math:`s_i \ge 0`, of shape ``shape``: exactly 0 in the null space.

        They are cut where ``op.pinv`` cuts them: at ten roundings, in the dtype of the decomposition, of the largest.
        """
        cut = 10 * torch.finfo(self._values.dtype).eps * self._values.amax()
        return torch.where(self._values > cut, self._values, 0).expand(self.shape)

    @abstractmethod
    def analyse(self, x: Tensor) -> Tensor:
        r"""Return :math:`V^\top x`: ``(B, *in_shape)`` to ``(B, *shape)``."""

    @abstractmethod
    def synthesise(self, x_bar: Tensor) -> Tensor:
        r"""Return :math:`V \bar x`, the inverse of ``analyse``: ``(B, *shape)`` to ``(B, *in_shape)``."""

    def measured(self, y: Tensor) -> Tensor:
        r"""Return :math:`U^\top y` laid out like ``singular``, 0 where that is 0: ``(B, *out_shape)`` to ``(B, *shape)``.

        What of ``y`` lies outside the range of :math:`A` is lost. For :math:`y = A x + n` this is :math:`s \bar x + \bar n`,
        with :math:`\bar n` as white as :math:`n` wherever :math:`s_i > 0`.
        """
        return torch.where((self.singular > 0).to(y.device), self._rotate(y), 0)

    @abstractmethod
    def _rotate(self, y: Tensor) -> Tensor:
        r"""Return :math:`U^\top y` laid out like ``singular``, and anything where that is 0."""


class CoordinateSVD(SVD):
    r"""Of an operator that weighs every entry of ``x`` by itself: :math:`V = U = I`.

    Args:
        values: The weights, not negative, broadcastable to ``shape``.
        shape: Shape of one ``x``.
    """

    def __init__(self, values: Tensor, shape: Sequence[int]) -> None:
        self._values, self.shape = values, tuple(shape)

    def analyse(self, x: Tensor) -> Tensor:
        return x.clone()

    def synthesise(self, x_bar: Tensor) -> Tensor:
        return x_bar.clone()

    def _rotate(self, y: Tensor) -> Tensor:
        return y


class DenseSVD(SVD):
    """Of a matrix, whatever it is. Coordinates are vectors, in descending order of their singular values.

    Args:
        adjoint: The matrix of the adjoint, ``(n, m)``, float64.
        in_shape: Shape of one ``x``, of ``n`` numbers.

    Cost: the decomposition takes some ten times ``n * m * max(n, m)`` operations, and ``n * n`` numbers are kept.
    """

    def __init__(self, adjoint: Tensor, in_shape: Sequence[int]) -> None:
        n, m = adjoint.shape
        self.v, values, ut = torch.linalg.svd(adjoint, full_matrices=n > m)  # Of V, all n columns in either case.
        self.u = ut.mT.contiguous()
        self._values = torch.nn.functional.pad(values, (0, n - len(values)))
        self.in_shape, self.shape = tuple(in_shape), (n,)

    def analyse(self, x: Tensor) -> Tensor:
        coefficients: Tensor = x.flatten(1) @ self.v.to(x)
        return coefficients

    def synthesise(self, x_bar: Tensor) -> Tensor:
        x: Tensor = x_bar @ self.v.to(x_bar).mT
        return x.reshape(-1, *self.in_shape)

    def _rotate(self, y: Tensor) -> Tensor:
        coefficients = y.flatten(1) @ self.u.to(y)
        return torch.nn.functional.pad(coefficients, (0, self.shape[0] - coefficients.shape[1]))
