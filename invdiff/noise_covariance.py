"""Covariances of Gaussian noise that are diagonal in a fast orthonormal basis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from invdiff.linalg import dense_matrix

__all__ = ["NOISE_KINDS", "Basis", "NoiseCovariance"]

# The basis of the covariance: entries of x, frequencies, the singular basis of a decimation, or any other basis.
NOISE_KINDS = ("pixel", "frequency", "decimation", "dense")


class Basis(Protocol):
    """An orthonormal basis :math:`V` of the space of ``x``, applied without forming the matrix."""

    kind: str

    def analyze(self, x: Tensor) -> Tensor:
        r"""Return :math:`V^\top x`."""
        ...

    def synthesize(self, x_bar: Tensor) -> Tensor:
        r"""Return :math:`V \bar x`."""
        ...

    def diagonal(self, values: Tensor) -> Tensor:
        r"""Return the diagonal of :math:`V \operatorname{diag}(v) V^\top`, shaped like ``x``."""
        ...

    def power(self, values: Tensor) -> Tensor:
        r"""Return the power of noise of covariance :math:`V \operatorname{diag}(v) V^\top` at the frequencies of ``rfft2``."""
        ...


class NoiseCovariance:
    r"""The covariance :math:`\Sigma = V \operatorname{diag}(s^2) V^\top` of Gaussian noise on the items of a batch.

    Args:
        basis: :math:`V`.
        levels: Standard deviations :math:`s \ge 0` in the basis, ``(B, *coordinates)``; or ``(1, *coordinates)`` if they are
            the same for all items. Zero means known exactly.

    Attributes:
        kind: One of :data:`NOISE_KINDS`.
    """

    def __init__(self, basis: Basis, levels: Tensor) -> None:
        self.basis, self.levels, self.kind = basis, levels, basis.kind

    def apply(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        r"""Return :math:`V \operatorname{diag}(f(s)) V^\top x`, item by item."""
        return self.basis.synthesize(function(self.levels) * self.basis.analyze(x))

    @property
    def largest(self) -> Tensor:
        """The largest level of every item, ``(B,)`` or ``(1,)``."""
        return self.levels.flatten(1).amax(1)

    def pixel_levels(self) -> Tensor:
        r"""Return the standard deviation of the noise of every entry of ``x``, the root of the diagonal of :math:`\Sigma`."""
        return self.basis.diagonal(self.levels**2).clamp(min=0).sqrt()

    def frequency_levels(self) -> Tensor:
        r"""Return the standard deviation of the noise at every frequency of ``rfft2``, ``(B, C, H, W // 2 + 1)``."""
        return self.basis.power(self.levels**2).clamp(min=0).sqrt()

    def clamp(self, lowest: float, highest: float) -> NoiseCovariance:
        """Return the covariance with all levels clamped to [``lowest``, ``highest``]."""
        return NoiseCovariance(self.basis, self.levels.clamp(lowest, highest))

    def matrix(self, event: tuple[int, ...]) -> Tensor:
        r"""Return :math:`\Sigma` as dense matrices ``(B, n, n)`` over items of shape ``event`` with ``n`` entries."""
        analysis = dense_matrix(self.basis.analyze, event, dtype=self.levels.dtype, device=self.levels.device)
        return torch.einsum("ki,bk,kj->bij", analysis, self.levels.flatten(1) ** 2, analysis)
