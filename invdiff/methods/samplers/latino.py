"""LATINO: encode, add noise, denoise, decode and move toward the data, at decreasing noise levels."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.methods.divergence import EXPLOSION, BoundsCheck
from invdiff.methods.method import Method, Preset
from invdiff.methods.on_step import OnStep
from invdiff.methods.probability_flow import follow_flow
from invdiff.methods.samplers.sampler import Sampler
from invdiff.operators import LinearOperator, Operator
from invdiff.operators.algebra.decoded import measured_image
from invdiff.priors import ScoreModel
from invdiff.random import Streams

__all__ = ["LATINO"]


class LATINO(Sampler):
    r"""Latent consistency inverse solver: the prior acts on codes, the likelihood on images, and neither is differentiated.

    .. math:: z_t = \alpha_t E(x) + \sigma_t \varepsilon, \qquad u = D(\mathrm{ODE}(z_t)), \qquad
        x \leftarrow \arg\min_x \lVert y - A x \rVert^2 + \frac{\sigma_y^2}{\delta_t} \lVert x - u \rVert^2, \qquad
        \delta_t = \delta\, \frac{\sigma_t^2}{\alpha_t^2 + \sigma_t^2}

    It starts from :math:`x = A^+ y`. :math:`E` is the encoder and :math:`D` the decoder. A step is one of a splitting of the
    Langevin equation of the posterior, in which an autoencoder that adds noise and removes it again takes the place of the
    prior. The mode is chosen at the first levels, and the spread of the samples comes from the noise of the last ones: it has
    no calibrated meaning.

    Args:
        score: The prior of codes.
        op: The measurement of decoded images, linear in the image; its ``sigma_y`` is :math:`\sigma_y`.
        y: Measurement, ``(B, *op.out_shape)``.
        delta: Trust :math:`\delta > 0` in the data: :math:`\delta_t` is the variance of the image around :math:`u`, in the
            squared units of images.
        ode_steps: Denoiser evaluations from :math:`z_t` to a code, at least 1: Euler steps of the probability-flow ODE. With
            one, the code is the posterior mean.

    Cost: ``ode_steps`` denoiser evaluations, an encoding, a decoding and a proximal step. No gradients.

    References:
        Spagnoletti et al., LATINO-PRO: LAtent consisTency INverse sOlver with PRompt Optimization, 2025,
        https://arxiv.org/abs/2503.12615, and the released code. Departures: the ODE of any denoiser stands in for a
        consistency model, which leaps along it in one evaluation; one :math:`\delta` for all levels, which the released code
        sets by problem and by residual; a start at :math:`A^+ y` instead of filtered data; nothing is clipped;
        the result is the decoded code of the last image. The prompt is
        not optimized.
    """

    needs = ("latent", "linear-image", "encoder")
    one_operator = True

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, delta: float = 1.0, ode_steps: int = 4) -> None:
        super().__init__(score, op, y)
        if not delta > 0 or ode_steps < 1:
            raise ValueError(f"LATINO: expected delta > 0 and ode_steps of at least 1, got {delta} and {ode_steps}.")
        parts = measured_image(op)
        assert parts is not None
        assert isinstance(parts.image, LinearOperator)
        self.delta, self.ode_steps, self.parts, self.image = delta, ode_steps, parts, parts.image

    @torch.no_grad()
    def sample(self, times: Tensor, *, streams: Streams, on_step: OnStep) -> Tensor:
        check, y = BoundsCheck(self.y.device), self.y
        z = self.parts.encode(self.image.pinv(y))
        for step, t in enumerate(times[:-1], start=1):
            alpha_t, sigma_t = self.score.schedule.levels(t)
            noise = streams.normal(self.op.in_shape, dtype=y.dtype)
            clean = follow_flow(self.score, alpha_t * z + sigma_t * noise, t, self.ode_steps)
            delta_t = self.delta * sigma_t**2 / (alpha_t**2 + sigma_t**2)
            z = self.parts.encode(self.image.prox(self.parts.decoder(clean), y, self.op.sigma_y**2 / delta_t))
            check(z, bound=EXPLOSION, step=step)
            on_step(z, clean)
        check.finish()
        return z


METHOD = Method(
    LATINO,
    steps=8,
    spacing="vp",
    paper="Spagnoletti et al., 2025, arXiv 2503.12615",
    presets={
        "any": Preset(
            {"steps": 8, "spacing": "vp", "delta": 1.0, "ode_steps": 1},
            "released code of Spagnoletti et al., 2025: 8 evaluations of a distilled model, delta of inpainting",
        ),
    },
)
