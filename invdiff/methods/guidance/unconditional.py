"""The prior alone, without guidance."""

from __future__ import annotations

from torch import Tensor

from invdiff.methods.denoised import Denoised
from invdiff.methods.guidance.guidance import ConditionalDenoiser
from invdiff.methods.method import Method

__all__ = ["Unconditional"]


class Unconditional(ConditionalDenoiser):
    r"""The prior alone: :math:`E[x_0 | x_t]` in place of :math:`E[x_0 | x_t, y]`. The measurement is ignored.

    Not a posterior sampler, but the control for comparisons. A metric on which it scores well is insensitive to the
    measurement.

    Args:
        score: The prior.
        op: The measurement, which is not used.
        y: Measurement, ``(B, *op.out_shape)``; only its number of rows is used.

    Cost: one denoiser evaluation.

    References:
        Song et al., Denoising Diffusion Implicit Models, 2021, https://arxiv.org/abs/2010.02502
    """

    any_noise = True

    def posterior_mean(self, at: Denoised) -> Tensor:
        return at.x0_hat


METHOD = Method(Unconditional, rule="heun", steps=50, paper="Song et al., 2021, arXiv 2010.02502")
