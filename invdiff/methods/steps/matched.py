"""The moment-matched step, whose kernel has the correct covariance."""

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

    If :math:`p(x_0 | x_t, y)` is approximated by the Gaussian with its mean :math:`\hat x_0^y` and covariance
    :math:`V_t^y`, the kernel has mean :math:`m(\hat x_0^y)` and covariance :math:`\tilde\sigma^2 I + b^2 V_t^y`, with
    :math:`m(x_0) = a x_t + b x_0` the mean of DDPM's kernel (:func:`invdiff.methods.ddpm_kernel.ddpm_kernel`). DDPM's step has
    covariance :math:`\tilde\sigma^2 I` only, so that its samples are under-dispersed for few steps. For a Gaussian prior and a
    linear operator the matched step is exact at *any* number of steps. It needs a guidance that can draw
    (:meth:`invdiff.methods.guidance.ConditionalDenoiser.posterior_draw`).

    Cost: one posterior draw.
    """

    follows_draws = True

    def __call__(self, mean: PosteriorMean, at: Denoised, s: Tensor, noise: Tensor) -> Tensor:
        return DDIM(eta=1.0)(mean, at, s, noise)

    def __repr__(self) -> str:
        return "Matched()"
