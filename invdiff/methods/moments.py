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

    Functions of :math:`V_t` are computed from its eigenvectors where that takes no more products than Krylov spaces would.
    Otherwise they are computed from the Krylov space of the vector they act on, which is exact once ``iterations`` reaches the
    number of distinct eigenvalues. The Jacobian of a network is only approximately symmetric and positive semidefinite, so the
    small matrices are symmetrized and their negative eigenvalues set to zero.

    Args:
        at: The state.
        iterations: Products with :math:`V_t` per vector that a function of it is applied to, at least 1.
        vectors: Number of vectors that functions will be applied to, which decides between the two computations.

    Attributes:
        mean: :math:`\hat x_0`, ``(B, *event)``.
        dense: Whether the eigenvectors of :math:`V_t` were computed.
        eigen: Eigenvalues ``(B, n)`` and eigenvectors ``(B, n, n)``, if ``dense``.
    """

    def __init__(self, at: Denoised, *, iterations: int, vectors: int = 1) -> None:
        self.at, self.mean, self.iterations = at, at.x0_hat, iterations
        self.dense = self.mean[0].numel() <= iterations * vectors
        if self.dense:
            self.eigen = positive_eigen(dense_matrix_per_item(self.product, self.mean))

    def take(self, rows: Tensor) -> TweedieGaussian:
        """Return the Gaussians of the selected rows. Unless ``dense``, the network is evaluated again at them."""
        if not self.dense:
            return TweedieGaussian(self.at.take(rows), iterations=self.iterations, vectors=0)
        taken = copy.copy(self)
        taken.at, taken.mean = self.at.take(rows), self.mean[rows]
        taken.eigen = self.eigen[0][rows], self.eigen[1][rows]
        return taken

    def product(self, v: Tensor) -> Tensor:
        r"""Return :math:`V_t v` by one vector-Jacobian product."""
        return self.at.covariance(v)

    def spectrum(self, v: Tensor) -> Spectrum:
        r"""Return the spectrum for :math:`f(V_t) v`: ``spectrum(v).apply(f)`` evaluates it for any :math:`f`."""
        if not self.dense:
            return krylov_spectrum(self.product, v, iterations=self.iterations)
        values, vectors = self.eigen
        return Spectrum(vectors.mT, values, torch.einsum("bij,bi->bj", vectors, v.flatten(1)), v.shape)

    def draw(self, noise: Tensor) -> Tensor:
        r"""Return :math:`V_t^{1/2}` ``noise``, a draw of :math:`\mathcal{N}(0, V_t)` for standard normal ``noise``."""
        return self.spectrum(noise).apply(torch.sqrt)
