"""The step whose kernel has the right covariance."""

from __future__ import annotations

from torch import Tensor

from invdiff.methods.denoised import Denoised, PosteriorMean
from invdiff.methods.steps.ddim import DDIM
from invdiff.methods.steps.rule import StepRule

__all__ = ["Matched"]


class Matched(StepRule):
    r"""The moment-matched kernel: DDPM's step around a *draw* of :math:`x_0`, not around its mean.

    .. math:: x_0' \sim p(x_0 | x_t, y), \qquad x_s \sim q(x_s | x_t, x_0') = \mathcal{N}\Big(\alpha_s x_0'
        + \sqrt{\sigma_s^2 - \tilde\sigma^2}\, \tfrac{x_t - \alpha_t x_0'}{\sigma_t},\, \tilde\sigma^2 I\Big)

    With the Gaussian of the right first two moments for :math:`p(x_0 | x_t, y)`, the kernel has mean
    :math:`m(\hat x_0^y)` and covariance :math:`\tilde\sigma^2 I + b^2 V_t^y`, where DDPM's has
    :math:`\tilde\sigma^2 I`: that is why few steps of DDPM shrink the samples. For a Gaussian prior and a linear operator
    it is exact at *any* number of steps. Needs a guidance that can draw
    (:meth:`invdiff.methods.guidance.ConditionalDenoiser.posterior_draw`).

    Cost: one posterior draw.
    """

    follows_draws = True

    def __call__(self, mean: PosteriorMean, at: Denoised, s: Tensor, noise: Tensor) -> Tensor:
        return DDIM(eta=1.0)(mean, at, s, noise)

    def __repr__(self) -> str:
        return "Matched()"
