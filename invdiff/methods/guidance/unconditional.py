"""No guidance at all."""

from __future__ import annotations

from invdiff.methods.guidance.base import Guidance

__all__ = ["Unconditional"]


class Unconditional(Guidance):
    r"""The prior alone: :math:`E[x_0 | x_t]` in the place of :math:`E[x_0 | x_t, y]`. The measurement is ignored.

    Not a posterior sampler: the honest control of every comparison. A score that this does well on does not see the
    measurement.

    Args:
        score: The prior.
        op: The measurement, which does not enter.
        y: Measurement, ``(B, *op.out_shape)``; its rows are counted.

    Cost: one denoiser evaluation.

    References:
        Song et al., Denoising Diffusion Implicit Models, 2021, https://arxiv.org/abs/2010.02502
    """

    any_noise = True
