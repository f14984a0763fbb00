r"""Singular value decompositions :math:`A = U \operatorname{diag}(s) V^\top`, applied without forming the matrices.

This module has the interface and the decompositions that several operators share. The others are defined next to the operator
whose structure they use.
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

    Everything is expressed in the *spectral coordinates* :math:`\bar x = V^\top x`. They are real and refer to a complete
    orthonormal basis of the space of ``x``, which includes the null space, where :math:`s_i = 0`. So white noise is also
    white in spectral coordinates, squared norms are preserved, and an isotropic Gaussian stays isotropic. The order of the
    coordinates depends on the operator.

    Methods compute in the dtype and on the device of their argument. To avoid the conversion at every call, and to truncate
    ``singular`` at the rounding error of the data, move the decomposition once: ``op.svd.to(y.device, y.dtype)``.

    Attributes:
        shape: Shape of the coordinates of one ``x``, without the batch axis. There are as many as entries of ``x``.
        kind: Type of the coordinates, one of :data:`invdiff.noise_covariance.NOISE_KINDS`. For every type but ``dense``,
            ``diagonal`` is implemented, and ``power`` too if ``x`` is an image.
    """

    shape: tuple[int, ...]
    kind: str = "dense"
    _values: Tensor  # Singular values, broadcastable to ``shape``, before truncation.

    @property
    def singular(self) -> Tensor:
        r"""The singular values :math:`s_i \ge 0`, of shape ``shape``: exactly 0 in the null space.

        They are truncated where ``op.pinv`` truncates them: at the largest one times 10 times the machine epsilon of the
        dtype of the decomposition.
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

        The part of ``y`` outside the range of :math:`A` is lost. For :math:`y = A x + n` with white noise :math:`n` the result
        is :math:`s \bar x + \bar n`, where :math:`\bar n` is white noise of the same variance wherever :math:`s_i > 0`.
        """
        return torch.where((self.singular > 0).to(y.device), self._rotate(y), 0)

    @abstractmethod
    def _rotate(self, y: Tensor) -> Tensor:
        r"""Return :math:`U^\top y` laid out like ``singular``, with arbitrary values where that is 0."""

    def diagonal(self, values: Tensor) -> Tensor:
        r"""Return the diagonal of :math:`V \operatorname{diag}(v) V^\top`: ``(B, *shape)`` to ``(B, *in_shape)``.

        These are the variances of the entries of ``x`` if ``values`` are the variances of its coordinates. The channel axis
        may have length 1, for variances that all channels share.
        """
        raise NotImplementedError(f"{type(self).__name__}: the variance of single entries is not known for {self.kind} noise.")

    def power(self, values: Tensor) -> Tensor:
        r"""Return :math:`f^* V \operatorname{diag}(v) V^\top f` for the unit plane waves :math:`f` of ``rfft2``.

        ``(B, *shape)`` to ``(B, C, H, W // 2 + 1)``: the power spectrum of noise whose coordinates have these variances.
        """
        raise NotImplementedError(f"{type(self).__name__}: the power spectrum is not known for {self.kind} noise.")


class CoordinateSVD(SVD):
    r"""SVD of a diagonal operator, which multiplies every entry of ``x`` by a weight: :math:`V = U = I`.

    Args:
        values: The nonnegative weights, broadcastable to ``shape``.
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
    r"""SVD of an operator with the same :math:`V` as another one, but other singular values and another :math:`U`.

    Args:
        svd: The SVD of the other operator.
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
    r"""SVD whose :math:`V` acts separately on rows and columns: :math:`\bar x_c = L\, x_c\, R^\top`.

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
        # The power of every row of L and R at each frequency. Frequencies come in pairs, and rfft2 keeps one of each pair.
        down, across = (torch.fft.fft(side.to(values), norm="ortho").abs().square() for side in (self.left, self.right))
        power: Tensor = down.mT @ values @ across
        return power[..., : values.shape[-1] // 2 + 1]


class DenseSVD(SVD):
    """SVD of an arbitrary matrix. Coordinates are vectors, in descending order of their singular values.

    Args:
        adjoint: The matrix of the adjoint, ``(n, m)``, float64.
        in_shape: Shape of one ``x``, with ``n`` entries.

    Cost: the decomposition takes about ``10 * n * m * max(n, m)`` operations, and ``n * n`` values are stored.
    """

    def __init__(self, adjoint: Tensor, in_shape: Sequence[int]) -> None:
        n, m = adjoint.shape
        self.v, values, ut = torch.linalg.svd(adjoint, full_matrices=n > m)  # All n columns of V in either case.
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
