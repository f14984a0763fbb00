"""OT-ODE: pseudoinverse guidance along the straight path, started near the measurement."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.methods.denoised import Denoised
from invdiff.methods.flow_time import flow_time
from invdiff.methods.guidance.guidance import ConditionalDenoiser
from invdiff.methods.method import Method, Preset
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["OTODE"]


class OTODE(ConditionalDenoiser):
    r"""Pseudoinverse guidance of a flow, from a start near the measurement. ``op`` must be linear.

    .. math:: E[x_0 | x_t, y] \approx \hat x_0 + \gamma_t \frac{\sigma_t^2}{\alpha_t}
        J^\top A^\top (r_t^2 A A^\top + \sigma_y^2 I)^{-1} (y - A \hat x_0), \qquad
        r_t^2 = \frac{\varsigma_t^2}{1 + \varsigma_t^2}

    .. math:: x_T = \alpha_T A^\top (A A^\top + \sigma_y^2 I)^{-1} y + \sigma_T \varepsilon

    The rule ``ddim`` is Euler's step of the flow. The start near the measurement with little noise, :math:`t = 0.2` in the time
    of the paper, spares the levels at which the guidance is worst. It has no meaning for priors whose data vary much more than
    1, as images in [-1, 1] do not.

    Args:
        score: The prior.
        op: A linear operator.
        y: Measurement, ``(B, *op.out_shape)``.
        weighted: Whether :math:`\gamma_t = \sqrt{(1 - u) / ((1 - u)^2 + u^2)}`, in the time :math:`u` of
            :func:`~invdiff.methods.flow_time.flow_time`; otherwise 1.

    Cost: one denoiser evaluation, one vector-Jacobian product and one solve in measurement space.

    References:
        Pokle et al., Training-free Linear Image Inverses via Flows, 2023, https://arxiv.org/abs/2310.04432, algorithm 1.
        Departures: the grid of levels ends near those of the noise of the measurement (``ratio_min``); the start, for which the
        paper has :math:`y` itself or its enlargement, is the mean given :math:`y` under a prior of unit variance, which suits
        any operator and does not amplify noise.
    """

    needs = ("linear",)
    differentiates = True
    op: LinearOperator

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, weighted: bool = False) -> None:
        super().__init__(score, op, y)
        self.weighted = weighted

    def start(self, t: Tensor, draw: Draw) -> Tensor:
        alpha_t, sigma_t = self.score.schedule.levels(t)
        return alpha_t * self.op.adjoint(self.op.solve(self.y, self.op.sigma_y**2)) + sigma_t * draw(self.op.in_shape)

    def posterior_mean(self, at: Denoised) -> Tensor:
        r2_t = at.ratio**2 / (1 + at.ratio**2)
        w = self.op.solve(self.y - self.op(at.x0_hat), self.op.sigma_y**2 / r2_t)
        guide = at.vjp(self.op.adjoint(w))  # r_t^2 times the gradient of log p(y | x_t)
        return torch.add(at.x0_hat, guide, alpha=self.weight(at) * at.sigma_t**2 / (at.alpha_t * r2_t))

    def weight(self, at: Denoised) -> float:
        r"""Return :math:`\gamma_t`."""
        u = flow_time(at.alpha_t, at.sigma_t)
        return math.sqrt((1 - u) / ((1 - u) ** 2 + u**2)) if self.weighted else 1.0


START = 4.0  # noise-to-signal ratio at the time 0.2 of the paper

METHOD = Method(
    OTODE,
    rule="ddim",
    spacing="flow",
    ratio_max=START,
    paper="Pokle et al., 2023, arXiv 2310.04432",
    presets={
        "any": Preset(
            {"steps": 80, "rule": "ddim", "spacing": "flow", "ratio_max": START},
            "Pokle et al., 2023: Euler's method with 100 steps, of which the last 80 are taken, from the time 0.2",
        ),
    },
)
