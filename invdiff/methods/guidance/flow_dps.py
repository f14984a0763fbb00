"""FlowDPS: posterior sampling with a flow, by steps toward the data and partly fresh noise."""

from __future__ import annotations

import math

from torch import Tensor

from invdiff.methods.denoised import Denoised
from invdiff.methods.flow_time import flow_time
from invdiff.methods.guidance.guidance import Transition
from invdiff.methods.method import Method, Preset
from invdiff.methods.toward_data import TowardData
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["FlowDPS"]


class FlowDPS(Transition):
    r"""Flow-driven posterior sampling: the denoised image is moved toward the data. ``op`` may be nonlinear.

    .. math:: \hat x_0^{(0)} = \hat x_0, \qquad
        \hat x_0^{(k + 1)} = \hat x_0^{(k)} + \tfrac{\zeta}{\lVert A \rVert^2} A^\top (y - A(\hat x_0^{(k)})), \qquad
        \bar x_0 = (1 - u_t)\, \hat x_0 + u_t\, \hat x_0^{(K)}

    .. math:: x_s = \alpha_s \bar x_0 + \sigma_s \big(\sqrt{u_s}\, \hat\varepsilon + \sqrt{1 - u_s}\, z\big), \qquad
        \hat\varepsilon = \frac{x_t - \alpha_t \hat x_0}{\sigma_t}

    :math:`u = \sigma / (\alpha + \sigma)` is the time of the flow (:func:`~invdiff.methods.flow_time.flow_time`), so that any
    prior may take its place. The measurement counts less and less toward the end, and its noise level is not used: samples
    need not fit the data, and their spread has no meaning.

    Args:
        score: The prior.
        op: The measurement; its noise level is not used.
        y: Measurement, ``(B, *op.out_shape)``.
        iterations: Steps toward the data :math:`K`, at least 1.
        zeta: Their length :math:`\zeta > 0`, see :class:`~invdiff.methods.toward_data.TowardData`.

    Cost: one denoiser evaluation, and ``iterations`` products with the operator and its adjoint. No gradient of the network.

    References:
        Kim et al., FlowDPS: Flow-Driven Posterior Sampling for Inverse Problems, 2025, https://arxiv.org/abs/2503.08136,
        algorithm 1, for images instead of latent codes. Departures: a gradient step of half the squared misfit instead of one
        of the misfit, whose length of 15 belongs to latent codes of one size; the image is moved, not what is decoded.
    """

    any_noise = True  # The noise level is not used.

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, iterations: int = 3, zeta: float = 1.0) -> None:
        super().__init__(score, op, y)
        if iterations < 1 or not zeta > 0:
            raise ValueError(f"FlowDPS: expected iterations of at least 1 and zeta > 0, got {iterations} and {zeta}.")
        self.iterations, self.zeta, self.toward_data = iterations, zeta, TowardData(op, y)

    def transition(self, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        (alpha_s, sigma_s), z = at.levels(s), draw(at.x_t.shape[1:])
        u_t, u_s = flow_time(at.alpha_t, at.sigma_t), flow_time(alpha_s, sigma_s)
        eps_hat = (at.x_t - at.alpha_t * at.x0_hat) / at.sigma_t
        noise = math.sqrt(u_s) * eps_hat + math.sqrt(1 - u_s) * z
        return alpha_s * ((1 - u_t) * at.x0_hat + u_t * self.moved(at.x0_hat)) + sigma_s * noise

    def moved(self, x: Tensor) -> Tensor:
        r"""Return :math:`\hat x_0^{(K)}`, the image after the steps toward the data."""
        for _ in range(self.iterations):
            x = self.toward_data(x, self.zeta)
        return x


METHOD = Method(
    FlowDPS,
    steps=28,
    spacing="flow",
    paper="Kim et al., 2025, arXiv 2503.08136",
    presets={
        "any": Preset(
            {"steps": 28, "spacing": "flow", "iterations": 3},
            "Kim et al., 2025: 28 evaluations, 3 steps toward the data; their shift of the times for large images is left out",
        ),
    },
)
