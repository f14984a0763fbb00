"""A prior that counts its evaluations and vector-Jacobian products."""

from __future__ import annotations

from torch import Tensor

from invdiff.noise_covariance import NoiseCovariance
from invdiff.priors import ScoreModel

__all__ = ["Counted"]


class Counted(ScoreModel):
    """A prior that counts its evaluations and vector-Jacobian products, one per row of the batch."""

    def __init__(self, score: ScoreModel) -> None:
        self.inner, self.schedule, self.event_shape = score, score.schedule, score.event_shape
        self.noise_kinds = score.noise_kinds
        self.error_model, self.learned, self.reach = score.error_model, score.learned, score.reach
        self.evaluations = self.products = 0

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self._counted(self.inner.denoise(x_t, t))

    def denoise_pivot(self, mu: Tensor, cov: NoiseCovariance) -> Tensor:
        return self._counted(self.inner.denoise_pivot(mu, cov))

    def _counted(self, x0_hat: Tensor) -> Tensor:
        self.evaluations += len(x0_hat)
        if x0_hat.requires_grad:
            x0_hat.register_hook(self._count_product)  # type: ignore[no-untyped-call]
        return x0_hat

    def _count_product(self, gradient: Tensor) -> None:
        self.products += len(gradient)
