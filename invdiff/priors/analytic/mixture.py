"""Gaussian mixtures: multimodal priors with closed-form score and posterior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from invdiff.movable import moved_copy
from invdiff.noise_covariance import NOISE_KINDS, NoiseCovariance
from invdiff.priors.analytic.gaussian import LinearMeasurement, check_density, kept_inverse, linear_gaussian_posterior
from invdiff.priors.score_model import ScoreModel
from invdiff.random import generator
from invdiff.schedules import VP, Schedule

__all__ = ["GaussianMixture"]


class GaussianMixture(ScoreModel):
    r"""The mixture :math:`\sum_k w_k\, \mathcal{N}(m_k, S_k)` on vectors, along any schedule.

    .. math:: E[x_0 | x_t] = \sum_k r_k(x_t)\,
        \big(m_k + \alpha_t S_k (\alpha_t^2 S_k + \sigma_t^2 I)^{-1} (x_t - \alpha_t m_k)\big),
        \qquad r_k \propto w_k\, \mathcal{N}(x_t; \alpha_t m_k, \alpha_t^2 S_k + \sigma_t^2 I)

    Args:
        weights: :math:`w_k \ge 0`, ``(K,)``, or ``(B, K)`` if every item has its own mixture. They are normalized.
        means: :math:`m_k`, ``(K, n)``, or ``(B, K, n)``.
        covs: :math:`S_k`: ``(K, n, n)`` (dense), or the variances ``(K, n)`` (diagonal).
        schedule: The noise schedule. Default: :class:`~invdiff.schedules.VP`.

    Raises:
        ValueError: If the shapes do not match, or the covariances are not symmetric positive semi-definite.

    Cost: :math:`K n^2` per denoised row for dense covariances, :math:`K n` for diagonal ones.
    """

    noise_kinds = frozenset(NOISE_KINDS)

    def __init__(self, weights: Tensor, means: Tensor, covs: Tensor, *, schedule: Schedule | None = None) -> None:
        count, size = means.shape[-2:]
        fits = tuple(covs.shape) in ((count, size, size), (count, size))
        if not fits or tuple(weights.shape) != tuple(means.shape[:-1]):
            raise ValueError(
                "GaussianMixture: expected weights (K,), means (K, n), covs (K, n, n) or (K, n), "
                f"got {tuple(weights.shape)}, {tuple(means.shape)}, {tuple(covs.shape)}."
            )
        if not ((weights >= 0).all() and (weights.sum(-1) > 0).all() and means.isfinite().all() and covs.isfinite().all()):
            raise ValueError("GaussianMixture: weights must be nonnegative and not all zero, means and covs must be finite.")
        self.weights, self.means, self.covs = weights / weights.sum(-1, keepdim=True), means, covs
        self._vectors: Tensor | None = None  # None: the coordinate axes
        values = covs
        if covs.ndim == 3:
            values, self._vectors = torch.linalg.eigh(covs)
        symmetric = covs.ndim == 2 or torch.allclose(covs, covs.mT, rtol=1e-6, atol=1e-8 * float(covs.abs().max()))
        if not symmetric or values.min() < -1e-6 * values.abs().max():
            raise ValueError("GaussianMixture: covs must be symmetric positive semi-definite.")
        self._values = values.clamp(min=0)
        self.event_shape, self.schedule, self.batched = (size,), schedule or VP(), weights.ndim > 1

    @cached_property
    def scale(self) -> float:  # type: ignore[override]
        r"""Upper bound on the root mean square along any direction.

        .. math:: \sqrt{\textstyle\sum_k w_k \lVert S_k \rVert + \lVert \sum_k w_k m_k m_k^\top \rVert}
        """
        spread = (self.weights * self._values.amax(1)).sum(-1).max()
        means = (self.weights.sqrt()[..., None] * self.means).reshape(-1, *self.means.shape[-2:])
        return math.sqrt(float(spread) + float(torch.linalg.matrix_norm(means, 2).max()) ** 2)

    def _summary(self) -> Sequence[str]:
        return (f"{self.weights.shape[-1]} components", *super()._summary())

    def to(self, device: torch.device | str | None = None) -> Self:
        return moved_copy(self, device)

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        if self._vectors is None and self.means.ndim == 2 and torch.as_tensor(t).ndim == 0:
            return self._denoise_by_products(x_t, t)
        alpha_t, sigma_t = self.levels(t, x_t[:, None])
        means, values = self.means.to(x_t), self._values.to(x_t)
        vectors = None if self._vectors is None else self._vectors.to(x_t)
        centered = x_t[:, None] - alpha_t * means
        if vectors is not None:
            centered = torch.einsum("bkn,knm->bkm", centered, vectors)
        variance = alpha_t**2 * values + sigma_t**2
        log_r = self.weights.to(x_t).log() - 0.5 * (centered**2 / variance + variance.log()).sum(-1)
        shift = alpha_t * values / variance * centered
        if vectors is not None:
            shift = torch.einsum("bkm,knm->bkn", shift, vectors)
        return torch.einsum("bk,bkn->bn", log_r.softmax(-1), means + shift)

    def _denoise_by_products(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Denoise in the diagonal case with expanded squares: matrix products only, no tensor of size ``(B, K, n)``."""
        x, means, values = (part.to(x_t.device, torch.float64) for part in (x_t, self.means, self._values))
        alpha_t, sigma_t = self.levels(t, x)
        precision = 1 / (alpha_t**2 * values + sigma_t**2)
        # Differences of large values: float64 up to the softmax.
        distance = x**2 @ precision.mT - 2 * alpha_t * x @ (precision * means).mT + alpha_t**2 * (precision * means**2).sum(-1)
        log_r = self.weights.to(x).log() - 0.5 * (distance - precision.log().sum(-1))
        r = log_r.softmax(-1).to(x_t)
        base, gain = (sigma_t**2 * precision * means).to(x_t), (alpha_t * values * precision).to(x_t)
        return r @ base + (r @ gain) * x_t

    def denoise_pivot(self, mu: Tensor, cov: NoiseCovariance) -> Tensor:
        r"""Return :math:`\sum_k r_k(\mu)\, (m_k + S_k (S_k + \Sigma)^{-1} (\mu - m_k))` by dense matrices.

        The responsibilities are :math:`r_k \propto w_k\, \mathcal{N}(\mu; m_k, S_k + \Sigma)`.
        """
        dtype = self.means.dtype
        weights, means, covs = (part.to(mu.device) for part in (self.weights, self.means, self.covs))
        covs = covs.diag_embed() if covs.ndim == 2 else covs
        inverse, log_values, vectors = kept_inverse(covs + cov.matrix(tuple(mu.shape[1:])).to(dtype)[:, None])
        centered = mu.to(dtype)[:, None] - means
        vectors = vectors.expand(len(mu), -1, -1, -1)
        coefficients = torch.einsum("bkij,bki->bkj", vectors, centered)
        log_r = weights.log() - 0.5 * (coefficients**2 * inverse + log_values).sum(-1)
        solved = torch.einsum("bkij,bkj->bki", vectors, coefficients * inverse)
        each = means + torch.einsum("kij,bkj->bki", covs, solved)
        return torch.einsum("bk,bkn->bn", log_r.softmax(-1), each).to(mu)

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Return the log density :math:`\log \sum_k w_k\, \mathcal{N}(x; m_k, S_k)` of every item of ``x``, shape ``(B,)``.

        Raises:
            ValueError: If a component has a singular covariance and therefore no density.
        """
        check_density("GaussianMixture", self._values)
        means, values = self.means.to(x), self._values.to(x)
        centered = x[:, None] - means
        if self._vectors is not None:
            centered = torch.einsum("bkn,knm->bkm", centered, self._vectors.to(x))
        each = -0.5 * (centered**2 / values + (2 * math.pi * values).log()).sum(-1)
        return (self.weights.to(x).log() + each).logsumexp(-1)

    def sample(self, num_samples: int, *, seed: int) -> Tensor:
        """Return exact samples, ``(num_samples, n)``, or ``(num_samples, B, n)`` if every item has its own mixture."""
        if num_samples < 1:
            raise ValueError(f"sample: num_samples must be at least 1, got {num_samples}.")
        batch, size = self.weights.shape[:-1], self.means.shape[-1]
        samples = []
        for k in range(num_samples):
            g = generator(seed, "prior", 0, k, device=self.means.device)
            chosen = torch.multinomial(self.weights.reshape(-1, self.weights.shape[-1]), 1, generator=g).reshape(batch)
            noise = torch.randn(*batch, size, generator=g, dtype=self.means.dtype, device=self.means.device)
            mean = torch.take_along_dim(self.means, chosen[..., None, None], -2).squeeze(-2)
            shaped = self._values[chosen].sqrt() * noise
            if self._vectors is not None:
                shaped = torch.einsum("...nm,...m->...n", self._vectors[chosen], shaped)
            samples.append(mean + shaped)
        return torch.stack(samples)

    def posterior(self, op: LinearMeasurement, y: Tensor) -> GaussianMixture:
        r"""Return the exact posterior, one mixture per item of ``y`` of shape ``(B, *op.out_shape)``.

        Each component is conditioned as a Gaussian, and its weight becomes proportional to
        :math:`w_k\, \mathcal{N}(y; A m_k, A S_k A^\top + \sigma_y^2 I)`. The covariances of
        the posterior are dense, even if those of the prior are diagonal.
        """
        y = y.to(self.means.dtype)
        covs = self.covs.diag_embed() if self.covs.ndim == 2 else self.covs
        parts = [linear_gaussian_posterior(self.means[..., k, :], cov, op, y) for k, cov in enumerate(covs)]
        log_w = self.weights.log() + torch.stack([log_p for _, _, log_p in parts], -1)
        means = torch.stack([mean for mean, _, _ in parts], -2)
        return GaussianMixture(log_w.softmax(-1), means, torch.stack([cov for _, cov, _ in parts]), schedule=self.schedule)
