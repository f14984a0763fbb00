r"""The Gaussian approximation of :math:`p(x_0 | x_t)`, and what it predicts of a low-dimensional measurement."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from invdiff.linalg import Spectrum, positive_eigen
from invdiff.methods.ddpm_kernel import DDPMKernel
from invdiff.methods.log_normal import inverse_eigen, log_normal
from invdiff.methods.moments import TweedieGaussian
from invdiff.methods.statistical_linearization import AffineMeasurement, ratio

__all__ = ["LocalGaussian"]


class LocalGaussian:
    r""":math:`\mathcal{N}(\hat x_0, V_t)` at every particle, with the measurement :math:`y = A x_0 + n`, linearized there.

    Args:
        moments: The Gaussian.
        measurement: Residual :math:`r = y - A \hat x_0`, rows :math:`A` and noise covariance :math:`R`.
        spectra: Krylov spectra from which functions of :math:`V_t` are applied to the columns of :math:`A^\top`. Default:
            computed here, unless the eigenvectors of :math:`V_t` are known.

    Attributes:
        mean: :math:`\hat x_0`, ``(B, *event)``.
        residual: :math:`r`, ``(B, d)``.
        covariance: :math:`S = R + A V_t A^\top`, the covariance of :math:`y`, ``(B, d, d)``.
    """

    def __init__(
        self, moments: TweedieGaussian, measurement: AffineMeasurement, spectra: Sequence[Spectrum] | None = None
    ) -> None:
        self.moments, self.measurement, self.mean = moments, measurement, moments.mean
        self.residual, self.rows, self.noise = measurement
        shape = self.mean.shape
        self.spectra = spectra or ([] if moments.dense else [moments.spectrum(r.reshape(shape)) for r in self.rows.unbind(1)])
        self.columns = self.columns_of(lambda v: v)
        self.covariance = self.noise + self.rows @ self.columns

    @property
    def x_t(self) -> Tensor:
        """The states, ``(B, *event)``."""
        return self.moments.at.x_t

    @property
    def estimate(self) -> Tensor:
        """The denoised states, ``(B, *event)``."""
        return self.mean

    @property
    def log_evidence(self) -> Tensor:
        r"""The twist :math:`\log \psi_t(x_t) = \log \mathcal{N}(y; A \hat x_0, S)`, ``(B,)``."""
        return log_normal(self.residual, self.covariance)

    def take(self, rows: Tensor) -> LocalGaussian:
        """Return the selected particles. No products are computed again."""
        return LocalGaussian(self.moments.take(rows), self.measurement.take(rows), [s.take(rows) for s in self.spectra])

    def draw(self, noise: Tensor) -> Tensor:
        r"""Return :math:`V_t^{1/2}` times standard normal noise, ``(B, *event)``."""
        return self.moments.draw(noise)

    def draw_noise(self, noise: Tensor) -> Tensor:
        r"""Return :math:`R^{1/2}` times standard normal noise, ``(B, d)``."""
        values, vectors = positive_eigen(self.noise)
        return torch.einsum("bij,bj->bi", vectors * values.sqrt()[:, None], noise)

    def observe(self, x: Tensor) -> Tensor:
        r"""Return :math:`A x`, ``(B, d)``."""
        return torch.einsum("bin,bn->bi", self.rows, x.flatten(1))

    def kalman_gain(self, residual: Tensor) -> Tensor:
        r"""Return :math:`V_t A^\top S^{-1}` times ``residual``, ``(B, *event)``."""
        inverse, _, vectors = inverse_eigen(self.covariance)
        w = torch.einsum("bij,bj->bi", vectors, torch.einsum("bij,bi->bj", vectors, residual) * inverse)
        return torch.einsum("bni,bi->bn", self.columns, w).reshape(self.mean.shape)

    def log_predicted(self, x_s: Tensor, kernel: DDPMKernel) -> Tensor:
        r"""Return :math:`\log \tilde p(y | x_s, x_t)`, ``(B,)``: the prediction of ``y`` given ``x_s``.

        .. math:: \tilde p(y | x_s, x_t) = \mathcal{N}\big(y;\, A \tilde x,\, R + A \tilde V A^\top\big), \qquad
            \tilde x = \hat x_0 + b V_t (v I + b^2 V_t)^{-1} (x_s - a x_t - b \hat x_0), \quad
            \tilde V = v V_t (v I + b^2 V_t)^{-1}

        Args:
            x_s: The next states, ``(B, *event)``.
            kernel: DDPM's kernel :math:`q(x_s | x_t, x_0) = \mathcal{N}(a x_t + b x_0, v I)`, :math:`v = \tilde\sigma^2`.
        """
        a, b, variance = kernel
        innovation = x_s - a * self.x_t - b * self.mean
        gained = self.columns_of(lambda v: ratio(b * v, variance + b**2 * v))
        left = self.columns_of(lambda v: v * ratio(variance, variance + b**2 * v))
        residual = self.residual - torch.einsum("bni,bn->bi", gained, innovation.flatten(1))
        return log_normal(residual, self.noise + self.rows @ left)

    def columns_of(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        r"""Return :math:`f(V_t) A^\top`, ``(B, n, d)``."""
        if self.moments.dense:
            values, vectors = self.moments.eigen
            return vectors * function(values)[:, None] @ (self.rows @ vectors).mT
        return torch.stack([spectrum.apply(function).flatten(1) for spectrum in self.spectra], -1)
