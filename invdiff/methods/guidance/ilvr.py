"""ILVR: iterative latent variable refinement."""

from __future__ import annotations

from torch import Tensor

from invdiff.methods.denoised import Denoised
from invdiff.methods.guidance.guidance import Correction
from invdiff.methods.method import Method, Preset
from invdiff.operators import LinearOperator
from invdiff.random import Draw

__all__ = ["ILVR"]


class ILVR(Correction):
    r"""After every step, replace the measured component by the data at that noise level. Exact data, linear ``op``.

    .. math:: x_s = x_s' + A^+ (y_s - A x_s'), \qquad y_s = \alpha_s y + \sigma_s A z, \qquad x_s' = \mathrm{Step}(\hat x_0)

    Any linear operator can be used, not only the low-pass filter :math:`\phi(x) = A^+ A x` of the paper, where :math:`A` is
    downsampling. :math:`A x_s = y_s` holds at every level, and :math:`A x_0 = y` at the end.

    The whole state is drawn without the data before its measured component is replaced: measured and unmeasured directions are
    inconsistent, and no mode is chosen. Prefer ``mmps`` where the posterior spread matters.

    Args:
        score: The prior.
        op: A linear operator without noise; its ``pinv`` gives :math:`A^+`.
        y: Measurement, ``(B, *op.out_shape)``.

    Cost: one denoiser evaluation and one pseudo-inverse per step. No gradients.

    References:
        Choi et al., ILVR: Conditioning Method for Denoising Diffusion Probabilistic Models, 2021,
        https://arxiv.org/abs/2108.02938, algorithm 1. Departures: any linear operator and any step rule; conditioning at
        every step (the full conditioning range of the paper), so that the samples fit the data.
    """

    needs = ("linear", "exact")
    op: LinearOperator

    def correct(self, x_s: Tensor, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        alpha_s, sigma_s = at.levels(s)
        y_s = alpha_s * self.y + sigma_s * self.op(draw(x_s.shape[1:]))
        return x_s + self.op.pinv(y_s - self.op(x_s))


METHOD = Method(
    ILVR,
    rule="ddpm",
    spacing="vp",
    paper="Choi et al., 2021, arXiv 2108.02938",
    presets={
        "downsample": Preset(
            {"steps": 100, "spacing": "vp", "rule": "ddpm"},
            "Choi et al., 2021: the command of the released code (README.md); conditioned at every step, not at the first 80",
        ),
    },
)
