"""Gaussian mixtures: priors with modes, whose score and posterior are known exactly."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from invdiff.priors.base import ScoreModel
from invdiff.priors.gaussian import LinearMeasurement, linear_gaussian_posterior
from invdiff.random import generator
from invdiff.schedules import VP, Schedule

__all__ = ["GaussianMixture"]


class GaussianMixture(ScoreModel):
    r"""The mixture :math:`\sum_k w_k\, \mathcal{N}(m_k, S_k)` on vectors, along any schedule.

    .. math:: E[x_0 | x_t] = \sum_k r_k(x_t)\,
        \big(m_k + \alpha_t S_k (\alpha_t^2 S_k + \sigma_t^2 I)^{-1} (x_t - \alpha_t m_k)\big),
        \qquad r_k \propto w_k\, \mathcal{N}(x_t; \alpha_t m_k, \alpha_t^2 S_k + \sigma_t^2 I)

    Args:
        weights: :math:`w_k \ge 0`, ``(K,)``, or ``(B, K)`` when every item has a mixture of its own. Normalised.
        means: ``(K, n)``, or ``(B, K, n)``.
        covs: ``(K, n, n)``.
        schedule: The noise schedule.

    Raises:
        ValueError: If the shapes do not fit, or the covariances are not symmetric positive semi-definite.
    """

    def __init__(self, weights: Tensor, means: Tensor, covs: Tensor, *, schedule: Schedule | None = None) -> None:
        count, size = means.shape[-2:]
        if tuple(covs.shape) != (count, size, size) or tuple(weights.shape) != tuple(means.shape[:-1]):
            raise ValueError(
                f"GaussianMixture: expected weights (K,), means (K, n), covs (K, n, n), got {tuple(weights.shape)}, "
                f"{tuple(means.shape)}, {tuple(covs.shape)}."
            )
        if not ((weights >= 0).all() and (weights.sum(-1) > 0).all() and means.isfinite().all() and covs.isfinite().all()):
            raise ValueError("GaussianMixture: weights must not be negative nor all zero, means and covs must be finite.")
        self.weights, self.means, self.covs = weights / weights.sum(-1, keepdim=True), means, covs
        values, self._vectors = torch.linalg.eigh(covs)
        if (
            not torch.allclose(covs, covs.mT, rtol=1e-6, atol=1e-8 * float(covs.abs().max()))
            or values.min() < -1e-6 * values.abs().max()
        ):
            raise ValueError("GaussianMixture: covs must be symmetric positive semi-definite.")
        self._values = values.clamp(min=0)
        self.event_shape, self.schedule, self.batched = (size,), schedule or VP(), weights.ndim > 1

    @classmethod
    def examples(cls) -> list[Self]:
        g = torch.Generator().manual_seed(0)
        roots = torch.randn(3, 4, 4, generator=g, dtype=torch.float64) / 3
        means = 2 * torch.randn(3, 4, generator=g, dtype=torch.float64)
        return [cls(torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), means, roots @ roots.mT)]

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = self.levels(t, x_t[:, None])
        means, values, vectors = self.means.to(x_t), self._values.to(x_t), self._vectors.to(x_t)
        centred = torch.einsum("bkn,knm->bkm", x_t[:, None] - alpha_t * means, vectors)
        variance = alpha_t**2 * values + sigma_t**2
        log_r = self.weights.to(x_t).log() - 0.5 * (centred**2 / variance + variance.log()).sum(-1)
        each = means + torch.einsum("bkm,knm->bkn", alpha_t * values / variance * centred, vectors)
        return torch.einsum("bk,bkn->bn", log_r.softmax(-1), each)

    def sample(self, num_samples: int, *, seed: int) -> Tensor:
        """Return exact samples, ``(num_samples, n)``, or ``(num_samples, B, n)`` for a mixture per item."""
        if num_samples < 1:
            raise ValueError(f"sample: num_samples must be at least 1, got {num_samples}.")
        batch, size = self.weights.shape[:-1], self.means.shape[-1]
        samples = []
        for k in range(num_samples):
            g = generator(seed, "prior", 0, k, device=self.means.device)
            chosen = torch.multinomial(self.weights.reshape(-1, self.weights.shape[-1]), 1, generator=g).reshape(batch)
            noise = torch.randn(*batch, size, generator=g, dtype=self.means.dtype, device=self.means.device)
            mean = torch.take_along_dim(self.means, chosen[..., None, None], -2).squeeze(-2)
            shaped = torch.einsum("...nm,...m->...n", self._vectors[chosen], self._values[chosen].sqrt() * noise)
            samples.append(mean + shaped)
        return torch.stack(samples)

    def posterior(self, op: LinearMeasurement, y: Tensor) -> GaussianMixture:
        r"""Return the exact posterior, one mixture per item of ``y`` of shape ``(B, *op.out_shape)``.

        Each component is conditioned like a Gaussian; the weights become
        :math:`\propto w_k\, \mathcal{N}(y; A m_k, A S_k A^\top + \sigma_y^2 I)`.
        """
        y = y.to(self.means.dtype)
        parts = [linear_gaussian_posterior(self.means[..., k, :], cov, op, y) for k, cov in enumerate(self.covs)]
        log_w = self.weights.log() + torch.stack([log_p for _, _, log_p in parts], -1)
        means = torch.stack([mean for mean, _, _ in parts], -2)
        return GaussianMixture(log_w.softmax(-1), means, torch.stack([cov for _, cov, _ in parts]), schedule=self.schedule)
