"""PnP-Flow: a point estimate by steps toward the data, noising along the flow, and denoising."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.methods.denoised import Denoised
from invdiff.methods.divergence import EXPLOSION, BoundsCheck
from invdiff.methods.flow_time import flow_time
from invdiff.methods.method import Method, Preset
from invdiff.methods.on_step import OnStep
from invdiff.methods.samplers.sampler import Sampler
from invdiff.methods.toward_data import TowardData
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Streams

__all__ = ["PnPFlow"]


class PnPFlow(Sampler):
    r"""Plug-and-play with a flow: a gradient step, an interpolation with noise, a denoising. ``op`` may be nonlinear.

    .. math:: z = x + \zeta\, u_t^{p} \lVert A \rVert^{-2} A^\top (y - A(x)), \qquad
        x \leftarrow \frac{1}{n} \sum_{k=1}^n D(\alpha_t z + \sigma_t \varepsilon_k)

    :math:`u = \sigma / (\alpha + \sigma)` is the time of the flow (:func:`~invdiff.methods.flow_time.flow_time`). The result is
    **a point estimate**: samples differ only through the noise, whose effect is averaged out, and their spread has no meaning.
    The noise level of the measurement is not used.

    Args:
        score: The prior.
        op: The measurement; its noise level is not used.
        y: Measurement, ``(B, *op.out_shape)``.
        zeta: Length of the gradient step :math:`\zeta > 0`, see :class:`~invdiff.methods.toward_data.TowardData`.
        power: Exponent :math:`p \ge 0`: the larger, the sooner the steps get short.
        averages: Number :math:`n` of noises, at least 1.

    Cost: ``averages`` denoiser evaluations, and one gradient of ``op``. No gradient of the network.

    References:
        Martin et al., PnP-Flow: Plug-and-Play Image Restoration with Flow Matching, 2024, https://arxiv.org/abs/2410.02423,
        algorithm 3. Departure: a step relative to the norm of the operator, which is 1 for those of the paper.
    """

    any_noise = True  # The noise level is not used.

    def __init__(
        self, score: ScoreModel, op: Operator, y: Tensor, *, zeta: float = 1.0, power: float = 0.5, averages: int = 1
    ) -> None:
        super().__init__(score, op, y)
        if not (zeta > 0 and power >= 0) or averages < 1:
            raise ValueError(f"PnP-Flow: expected zeta > 0, power >= 0 and averages >= 1, got {zeta}, {power}, {averages}.")
        self.zeta, self.power, self.averages, self.toward_data = zeta, power, averages, TowardData(op, y)

    @torch.no_grad()
    def sample(self, times: Tensor, *, streams: Streams, on_step: OnStep) -> Tensor:
        check, op, y = BoundsCheck(self.y.device), self.op, self.y
        x = y.new_zeros(len(y), *op.in_shape)
        for number, t in enumerate(times[:-1], start=1):
            alpha_t, sigma_t = self.score.schedule.levels(t)
            z = self.toward_data(x, self.zeta * flow_time(alpha_t, sigma_t) ** self.power)
            x = torch.zeros_like(x)
            for _ in range(self.averages):
                noise = streams.normal(op.in_shape, dtype=y.dtype)
                x += Denoised(self.score, alpha_t * z + sigma_t * noise, t).x0_hat / self.averages
            check(x, bound=EXPLOSION, step=number)
            on_step(x, x)
        check.finish()
        return x


METHOD = Method(
    PnPFlow,
    spacing="flow",
    paper="Martin et al., 2024, arXiv 2410.02423",
    presets={
        "any": Preset(
            {"steps": 100, "spacing": "flow", "zeta": 1.0, "power": 0.5, "averages": 5},
            "released code of Martin et al., 2024: 100 steps, 5 noises; the power is tuned there, from 0.01 to 1",
        ),
    },
)
