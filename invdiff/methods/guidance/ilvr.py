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
    r"""After every step, what is measured is replaced by the data at the noise level of the step. Exact data, linear ``op``.

    .. math:: x_s = x_s' + A^+ (y_s - A x_s'), \qquad y_s = \alpha_s y + \sigma_s A z, \qquad x_s' = \mathrm{Step}(\hat x_0)

    Any linear operator serves, not the low pass :math:`\phi` of the paper alone: there :math:`\phi(x) = A^+ A x` with
    downsampling for :math:`A`. :math:`A x_s = y_s` holds at every level, and :math:`A x_0 = y` at the end.

    What is replaced has just been drawn without the data, and the rest of the state with it: measured and unmeasured
    directions disagree, and no mode is chosen. Prefer ``mmps`` where the spread has to be right.

    Args:
        score: The prior.
        op: A linear operator without noise; its ``pinv`` gives :math:`A^+`.
        y: Measurement, ``(B, *op.out_shape)``.

    Cost: one denoiser evaluation and one pseudo-inverse per step. No gradients.

    References:
        Choi et al., ILVR: Conditioning Method for Denoising Diffusion Probabilistic Models, 2021,
        https://arxiv.org/abs/2108.02938, algorithm 1. Departures: any linear operator and any step rule; the data count at
        every step (the paper's conditioning range in full), so that they are met at the end.
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
