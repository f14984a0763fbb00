r"""The Gaussian with the first two moments of :math:`x_0` given :math:`x_t`, matrix-free."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from invdiff.linalg import Spectrum, dense_matrix_per_item, krylov_spectrum, positive_eigen
from invdiff.methods.denoised import Denoised

__all__ = ["TweedieGaussian"]


class TweedieGaussian:
    r""":math:`\mathcal{N}(\hat x_0, V_t)` with :math:`V_t = \mathrm{Cov}[x_0 | x_t] = (\sigma_t^2 / \alpha_t)\, J`.

    Functions of :math:`V_t` are computed by its eigenvectors where that takes no more products than the Krylov spaces would,
    and from the Krylov space of the vector they act on otherwise: exact as soon as ``iterations`` reaches the number of
    distinct eigenvalues. The Jacobian of a network is only nearly symmetric and positive: the small matrices are
    symmetrized, their negative eigenvalues raised to zero.

    Args:
        at: The state.
        iterations: Products with :math:`V_t` for a function of it, at least 1.
        vectors: To how many vectors functions will be applied, which decides between the two ways.

    Attributes:
        mean: :math:`\hat x_0`, ``(B, *event)``.
        dense: Whether :math:`V_t` is known by its eigenvectors.
        eigen: Its eigenvalues ``(B, n)`` and eigenvectors ``(B, n, n)``, if it is.
    """

    def __init__(self, at: Denoised, *, iterations: int, vectors: int = 1) -> None:
        self.at, self.mean, self.iterations = at, at.x0_hat, iterations
        self.dense = self.mean[0].numel() <= iterations * vectors
        if self.dense:
            self.eigen = positive_eigen(dense_matrix_per_item(self.product, self.mean))

    def take(self, rows: Tensor) -> TweedieGaussian:
        """Return the Gaussians of these rows, for which the network is evaluated anew unless they are known by eigenvectors."""
        if not self.dense:
            return TweedieGaussian(self.at.take(rows), iterations=self.iterations, vectors=0)
        taken = copy.copy(self)
        taken.at, taken.mean = self.at.take(rows), self.mean[rows]
        taken.eigen = self.eigen[0][rows], self.eigen[1][rows]
        return taken

    def product(self, v: Tensor) -> Tensor:
        """Return :math:`V_t v` by one vector-Jacobian product."""
        return self.at.covariance(v)

    def spectrum(self, v: Tensor) -> Spectrum:
        r"""Return what any :math:`f(V_t) v` is read from: ``spectrum(v).apply(f)``."""
        if not self.dense:
            return krylov_spectrum(self.product, v, iterations=self.iterations)
        values, vectors = self.eigen
        return Spectrum(vectors.mT, values, torch.einsum("bij,bi->bj", vectors, v.flatten(1)), v.shape)

    def draw(self, noise: Tensor) -> Tensor:
        r"""Return :math:`V_t^{1/2}` ``noise``, a draw of :math:`\mathcal{N}(0, V_t)` for standard normal ``noise``."""
        return self.spectrum(noise).apply(torch.sqrt)
