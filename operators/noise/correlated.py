r"""Correlated Gaussian noise."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from invdiff.random import Streams

from ..core.noise import Noise
from ..core.operator import LinearOperator
from ..core.validation import real_matrix

__all__ = ["CorrelatedNoise", "CovarianceNoise"]


SYMMETRY = 1e-5  # Tolerance for the rounding error of a matrix product in float32.


class CovarianceNoise(Noise):
    r"""Gaussian noise with a covariance matrix :math:`\Sigma`: :math:`y = z + n`, :math:`n \sim \mathcal{N}(0, \Sigma)`.

    Args:
        covariance: :math:`\Sigma`, ``(m, m)``, of the :math:`m` entries of the flattened ``y``; positive definite.

    Raises:
        TypeError: If the covariance is complex.
        ValueError: If it is not square, finite, symmetric and positive definite.
    """

    gaussian = True

    def __init__(self, covariance: Tensor | np.ndarray) -> None:
        matrix = real_matrix("CovarianceNoise", "covariance", covariance)
        if matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"CovarianceNoise: covariance must be square, got shape {tuple(matrix.shape)}.")
        gap = float((matrix - matrix.mT).abs().max() / matrix.abs().max())
        if gap > SYMMETRY:
            raise ValueError(f"CovarianceNoise: covariance must be symmetric, got a relative asymmetry of {gap:.1g}.")
        values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
        if not values[0] > 1e-12 * values[-1]:
            raise ValueError(
                f"CovarianceNoise: covariance must be positive definite, got eigenvalues from {float(values[0]):.3g} to "
                f"{float(values[-1]):.3g}. Add a small number to its diagonal: every direction needs some noise."
            )
        self.sigma = float(values[0]) ** 0.5
        self.root = (vectors * values.sqrt()) @ vectors.mT
        self.inverse_root = (vectors / values.sqrt()) @ vectors.mT

    def check(self, owner: str, out_shape: tuple[int, ...]) -> None:
        if math.prod(out_shape) != len(self.root):
            raise ValueError(
                f"{owner}: the covariance is for {len(self.root)} entries, but the measurement of shape {out_shape} has "
                f"{math.prod(out_shape)}."
            )

    def add(self, clean: Tensor, streams: Streams) -> Tensor:
        return clean + _times(self.root, streams.normal(clean.shape[1:], dtype=clean.dtype))

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        r"""Return the terms of :math:`\log \mathcal{N}(y; z, \Sigma)` in the coordinates :math:`W (y - z)`."""
        _, log_root = torch.linalg.slogdet(self.root.to(clean))
        each = log_root / y[0].numel() + 0.5 * math.log(2 * math.pi)
        terms: Tensor = -0.5 * self.whiten(y - clean).square() - each
        return terms

    def variance(self, y: Tensor, clean: Tensor) -> Tensor:
        variance: Tensor = (self.root.to(clean) ** 2).sum(1).reshape(1, *clean.shape[1:])
        return variance

    def whiten(self, v: Tensor) -> Tensor:
        return _times(self.inverse_root, v)

    def whiten_adjoint(self, v: Tensor) -> Tensor:
        return self.whiten(v)

    def __repr__(self) -> str:
        return f"CovarianceNoise({len(self.root)} x {len(self.root)})"


class CorrelatedNoise(Noise):
    r"""Gaussian noise made by applying an operator to white noise: :math:`y = z + L n`, :math:`n \sim \mathcal{N}(0, I)`.

    Args:
        root: :math:`L`, an invertible linear operator from the shape of ``y`` to itself, for example a circular
            :class:`~invdiff.operators.Blur` for stationary noise. It is inverted by its ``pinv`` and ``solve``, so an
            operator with a closed form is cheap at any size.

    Raises:
        ValueError: If ``root`` is not square or not invertible.
    """

    gaussian = True

    def __init__(self, root: LinearOperator) -> None:
        if root.in_shape != root.out_shape:
            raise ValueError(f"CorrelatedNoise: root must be square, got {root.in_shape} to {root.out_shape}.")
        self.root = root
        probe = torch.randn(1, *root.in_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        probe = probe.to(root.device, root.dtype or torch.float64)
        if not (root.pinv(root(probe)) - probe).norm() <= 1e-3 * probe.norm():
            raise ValueError("CorrelatedNoise: root cannot be inverted, so some direction of y would have no noise.")
        self.sigma = float(probe.norm() / root.pinv(probe).norm())  # About the root of the harmonic mean variance.

    def check(self, owner: str, out_shape: tuple[int, ...]) -> None:
        if self.root.out_shape != out_shape:
            raise ValueError(
                f"{owner}: the root of the noise has shape {self.root.out_shape}, but the measurement has shape {out_shape}."
            )

    def add(self, clean: Tensor, streams: Streams) -> Tensor:
        return clean + self.root(streams.normal(clean.shape[1:], dtype=clean.dtype))

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        r"""Return :math:`-\frac12 (W (y - z))_i^2`; the sum is the log density up to the constant with :math:`\det L`."""
        return -0.5 * self.whiten(y - clean).square()

    def variance(self, y: Tensor, clean: Tensor) -> Tensor:
        raise NotImplementedError("CorrelatedNoise has no variance for single entries. Whiten the operator first: whiten(op).")

    def whiten(self, v: Tensor) -> Tensor:
        return self.root.pinv(v)

    def whiten_adjoint(self, v: Tensor) -> Tensor:
        return self.root.solve(self.root(v), 0.0)

    def __repr__(self) -> str:
        return f"CorrelatedNoise({type(self.root).__name__})"


def _times(matrix: Tensor, v: Tensor) -> Tensor:
    product: Tensor = (v.flatten(1) @ matrix.to(v).mT).reshape(v.shape)
    return product
