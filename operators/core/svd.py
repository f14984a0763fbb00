r"""Singular value decompositions :math:`A = U \operatorname{diag}(s) V^\top`, applied without ever being written out.

Here are the interface and the two decompositions that belong to no operator in particular; the others stand beside the
operator whose structure they use.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from invdiff.movable import Movable

__all__ = ["SVD", "CoordinateSVD", "DenseSVD", "SameBasisSVD", "SeparableSVD"]


class SVD(Movable, ABC):
    r"""A singular value decomposition of a linear operator, :math:`A = U \operatorname{diag}(s) V^\top`.

    Everything is expressed in the *spectral coordinates* :math:`\bar x = V^\top x`, real, over a complete orthonormal basis
    of the space of ``x``: null space included, where :math:`s_i = 0`. So white noise is white in spectral coordinates too,
    squared norms are kept, and a Gaussian that is isotropic stays so. Which coordinate comes where is up to the operator.

    Methods compute in the dtype and on the device of what they are given. To spare them the conversion, and to have
    ``singular`` cut at the rounding of the data, move the decomposition once: ``op.svd.to(y.device, y.dtype)``.

    Attributes:
        shape: Shape of the coordinates of one ``x``, without the batch axis: as many numbers as ``x`` has.
        kind: What the coordinates are, one of :data:`invdiff.noise_covariance.NOISE_KINDS`. Of all but ``dense`` ones
            ``diagonal`` is known, and, where ``x`` is an image, ``power``.
    """

    shape: tuple[int, ...]
    kind: str = "dense"
    _values: Tensor  # Broadcastable to ``shape``, rounding included.

    @property
    def singular(self) -> Tensor:
        r"""The singular values :math:`s_i \ge 0`, of shape ``shape``: exactly 0 in the null space.

        They are cut where ``op.pinv`` cuts them: at ten roundings, in the dtype of the decomposition, of the largest.
        """
        cut = 10 * torch.finfo(self._values.dtype).eps * self._values.amax()
        return torch.where(self._values > cut, self._values, 0).expand(self.shape)

    @abstractmethod
    def analyze(self, x: Tensor) -> Tensor:
        r"""Return :math:`V^\top x`: ``(B, *in_shape)`` to ``(B, *shape)``."""

    @abstractmethod
    def synthesize(self, x_bar: Tensor) -> Tensor:
        r"""Return :math:`V \bar x`, the inverse of ``analyze``: ``(B, *shape)`` to ``(B, *in_shape)``."""

    def measured(self, y: Tensor) -> Tensor:
        r"""Return :math:`U^\top y` laid out like ``singular``, 0 where that is 0: ``(B, *out_shape)`` to ``(B, *shape)``.

        What of ``y`` lies outside the range of :math:`A` is lost. For :math:`y = A x + n` this is :math:`s \bar x + \bar n`,
        with :math:`\bar n` as white as :math:`n` wherever :math:`s_i > 0`.
        """
        return torch.where((self.singular > 0).to(y.device), self._rotate(y), 0)

    @abstractmethod
    def _rotate(self, y: Tensor) -> Tensor:
        r"""Return :math:`U^\top y` laid out like ``singular``, and anything where that is 0."""

    def diagonal(self, values: Tensor) -> Tensor:
        r"""Return the diagonal of :math:`V \operatorname{diag}(v) V^\top`: ``(B, *shape)`` to ``(B, *in_shape)``.

        The variances of the entries of ``x``, where ``values`` are those of its coordinates. One for all channels may stand for
        those of each.
        """
        raise NotImplementedError(f"{type(self).__name__}: the variance of single entries is not known of {self.kind} noise.")

    def power(self, values: Tensor) -> Tensor:
        r"""Return :math:`f^* V \operatorname{diag}(v) V^\top f` for the unit waves :math:`f` of ``rfft2``.

        ``(B, *shape)`` to ``(B, C, H, W // 2 + 1)``: the power spectrum of noise whose coordinates have these variances.
        """
        raise NotImplementedError(f"{type(self).__name__}: the power spectrum is not known of {self.kind} noise.")


class CoordinateSVD(SVD):
    r"""Of an operator that weighs every entry of ``x`` by itself: :math:`V = U = I`.

    Args:
        values: The weights, not negative, broadcastable to ``shape``.
        shape: Shape of one ``x``.
    """

    kind = "pixel"

    def __init__(self, values: Tensor, shape: Sequence[int]) -> None:
        self._values, self.shape = values, tuple(shape)

    def analyze(self, x: Tensor) -> Tensor:
        return x.clone()

    def synthesize(self, x_bar: Tensor) -> Tensor:
        return x_bar.clone()

    def _rotate(self, y: Tensor) -> Tensor:
        return y

    def diagonal(self, values: Tensor) -> Tensor:
        return values


class SameBasisSVD(SVD):
    """Of an operator that has the :math:`V` of another, and singular values and :math:`U` of its own.

    Args:
        svd: Of the other one.
        values: The singular values, broadcastable to ``svd.shape``.
    """

    def __init__(self, svd: SVD, values: Tensor) -> None:
        self.svd, self.shape, self.kind, self._values = svd, svd.shape, svd.kind, values

    def analyze(self, x: Tensor) -> Tensor:
        return self.svd.analyze(x)

    def synthesize(self, x_bar: Tensor) -> Tensor:
        return self.svd.synthesize(x_bar)

    def diagonal(self, values: Tensor) -> Tensor:
        return self.svd.diagonal(values)

    def power(self, values: Tensor) -> Tensor:
        return self.svd.power(values)


class SeparableSVD(SVD):
    r"""Of an operator whose :math:`V` acts on rows and columns apart: :math:`\bar x_c = L\, x_c\, R^\top`.

    Attributes:
        left: :math:`L`, orthogonal, ``(H, H)``, float64 until it is moved.
        right: :math:`R`, orthogonal, ``(W, W)``.
    """

    left: Tensor
    right: Tensor

    def analyze(self, x: Tensor) -> Tensor:
        coordinates: Tensor = self.left.to(x) @ x @ self.right.to(x).mT
        return coordinates

    def synthesize(self, x_bar: Tensor) -> Tensor:
        x: Tensor = self.left.to(x_bar).mT @ x_bar @ self.right.to(x_bar)
        return x

    def diagonal(self, values: Tensor) -> Tensor:
        variances: Tensor = self.left.to(values).mT.square() @ values @ self.right.to(values).square()
        return variances

    def power(self, values: Tensor) -> Tensor:
        # Of every row of L and R, how much of it lies at each frequency; waves come in pairs, of which rfft2 keeps one.
        down, across = (torch.fft.fft(side.to(values), norm="ortho").abs().square() for side in (self.left, self.right))
        power: Tensor = down.mT @ values @ across
        return power[..., : values.shape[-1] // 2 + 1]


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

    def analyze(self, x: Tensor) -> Tensor:
        coefficients: Tensor = x.flatten(1) @ self.v.to(x)
        return coefficients

    def synthesize(self, x_bar: Tensor) -> Tensor:
        x: Tensor = x_bar @ self.v.to(x_bar).mT
        return x.reshape(-1, *self.in_shape)

    def _rotate(self, y: Tensor) -> Tensor:
        coefficients = y.flatten(1) @ self.u.to(y)
        return torch.nn.functional.pad(coefficients, (0, self.shape[0] - coefficients.shape[1]))
