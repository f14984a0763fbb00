"""DDNM: null-space correction."""

from __future__ import annotations

import math

from torch import Tensor

from invdiff.methods.denoised import Denoised
from invdiff.methods.guidance.guidance import ConditionalDenoiser, Transition
from invdiff.methods.method import Method, Preset
from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["DDNM"]


class DDNM(Transition, ConditionalDenoiser):
    r"""Denoising diffusion null-space model, for exact data and any linear operator.

    .. math:: \hat x_0' = \hat x_0 + A^+ (y - A \hat x_0), \qquad
        x_s = \alpha_s \hat x_0' + \sigma_s \big(\sqrt{1 - \eta^2}\, \hat\varepsilon + \eta z\big), \qquad
        \hat\varepsilon = \frac{x_t - \alpha_t \hat x_0}{\sigma_t}

    The range-space component (the range of :math:`A^+`) comes from the data, the null-space component from the denoiser. The
    last state fits the data exactly. With time travel, every step is taken ``travel_repeats`` times, and in between the state
    returns to :math:`t` by forward diffusion, so that the two components become consistent.

    Without the denoiser's Jacobian the data change measured directions only. Unmeasured directions change only through the
    denoiser, and of several modes the wrong one is often kept. Prefer ``mmps`` where the posterior spread matters.

    Args:
        score: The prior.
        op: A linear operator without noise; its ``pinv`` gives :math:`A^+`.
        y: Measurement, ``(B, *op.out_shape)``.
        eta: Share :math:`\eta` of fresh noise in [0, 1], in the method's own step.
        travel_repeats: Number of times each of its own steps is taken, at least 1.

    Cost: one denoiser evaluation and one pseudo-inverse per step; ``travel_repeats`` times that with time travel. No
    gradients.

    References:
        Wang et al., Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model, 2023,
        https://arxiv.org/abs/2212.00490. Departures: time travel goes back one step at a time
        (:math:`l = 1`), and starts from :math:`x_s`. The released code starts from :math:`\hat x_0` before its
        correction, which with single steps would undo the correction.
    """

    needs = ("linear", "exact")
    in_windows = True
    op: LinearOperator

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, eta: float = 0.85, travel_repeats: int = 1) -> None:
        super().__init__(score, op, y)
        if not 0 <= eta <= 1 or travel_repeats < 1:
            raise ValueError(f"DDNM: expected 0 <= eta <= 1 and travel_repeats >= 1, got {eta} and {travel_repeats}.")
        self.eta, self.travel_repeats = eta, travel_repeats

    def posterior_mean(self, at: Denoised) -> Tensor:
        return at.x0_hat + self.op.pinv(self.y - self.op(at.x0_hat))

    def transition(self, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        x_s = self.step(at, s, draw)
        alpha_s, sigma_s = at.levels(s)
        for _ in range(self.travel_repeats - 1 if sigma_s > 0 else 0):  # At zero noise, time travel is undefined.
            shrink = at.alpha_t / alpha_s
            x_t = shrink * x_s + math.sqrt(at.sigma_t**2 - (shrink * sigma_s) ** 2) * draw(x_s.shape[1:])
            x_s = self.step(at.elsewhere(x_t, at.t), s, draw)
        return x_s

    def step(self, at: Denoised, s: Tensor, draw: Draw) -> Tensor:
        """Return the state at ``s`` after one step."""
        alpha_s, sigma_s = at.levels(s)
        eps_hat = (at.x_t - at.alpha_t * at.x0_hat) / at.sigma_t
        z = draw(at.x_t.shape[1:])
        return alpha_s * self.posterior_mean(at) + sigma_s * (math.sqrt(1 - self.eta**2) * eps_hat + self.eta * z)


METHOD = Method(
    DDNM,
    spacing="vp",
    paper="Wang et al., 2023, arXiv 2212.00490",
    presets={
        "any": Preset(
            {"steps": 100, "spacing": "vp", "eta": 0.85, "travel_repeats": 1},
            "Wang et al., 2023: steps as recalled, eta of the released scripts (evaluation.sh)",
        ),
    },
)
