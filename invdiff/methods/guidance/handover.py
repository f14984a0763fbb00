"""The exact posterior score at high noise levels and matched moments at low ones: each where it is more accurate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from invdiff.methods.denoised import Denoised
from invdiff.methods.guidance.exact_score import ExactScore
from invdiff.methods.guidance.guidance import ConditionalDenoiser
from invdiff.methods.guidance.mmps import MMPS
from invdiff.methods.method import Method
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw

__all__ = ["Handover"]

# Time of a vector-Jacobian product relative to a step of exact-score, whose draw takes as long as an evaluation. Measured:
# steps with one product take 1.3 to 2.0 times as long (64 to 192 pixels, one thread).
PRODUCT = 0.6


class Handover(ConditionalDenoiser):
    r""":class:`ExactScore` down to a given noise-to-signal ratio, and :class:`MMPS` below it.

    .. math:: E[x_0 | x_t, y] \approx \begin{cases} E[x_0 | \mu], & \sigma_t / \alpha_t \ge \text{ratio} \\
        \hat x_0 + V_t A^\top (\sigma_y^2 I + A V_t A^\top)^{-1} (y - A \hat x_0) & \text{below} \end{cases}

    With a network both are approximations, with their errors at opposite ends. At high noise levels :math:`p(x_0 | x_t)` is far
    from Gaussian, and correcting :math:`\hat x_0` with its covariance loses decibels that the pivot :math:`\mu` keeps. At low
    noise levels it is nearly Gaussian, and the network denoises white noise, its main training target, better than the noise
    of pivots. With an exact denoiser and a Gaussian prior both are exact.

    Args:
        score: The prior. It must denoise the noise of the pivots, see :class:`ExactScore`.
        op: The measurement, linear, in white Gaussian noise or exact.
        y: Measurement, ``(B, *op.out_shape)``.
        ratio: Noise-to-signal ratio :math:`\sigma_t / \alpha_t` below which :class:`MMPS` is used, positive.
        rounds: Rounds per step of :class:`ExactScore`, where a part of the measurement is imputed.
        mmps: Options of :class:`MMPS`.

    Cost: one denoiser evaluation per step, and below ``ratio`` the gradients of :class:`MMPS`.

    Raises:
        ValueError: If the noise of the pivot is of a kind that the prior does not accept, or ``ratio`` is not positive.

    References:
        The combination is new. The two parts are from Mammadov et al., 2026, https://arxiv.org/abs/2606.17048, and Rozet et
        al., 2024, https://arxiv.org/abs/2405.13712. ``docs/evidence.md`` compares them level by level.
    """

    needs = ("linear",)
    one_operator = True
    can_draw = True
    differentiates = True
    starts_high = True
    in_windows = True
    passes_options_to = MMPS

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor, *, ratio: float = 1.0, rounds: int = 1, **mmps: Any) -> None:
        super().__init__(score, op, y)
        self.ratio, self.rounds, self.mmps = ratio, rounds, MMPS(score, op, y, **mmps)
        if not ratio > 0:
            raise ValueError(f"handover: ratio must be positive, got {ratio}.")
        self.exact_score = ExactScore(score, op, y, rounds=rounds)

    def posterior_mean(self, at: Denoised) -> Tensor:
        return self.method(at).posterior_mean(at)

    def posterior_draw(self, at: Denoised, draw: Draw) -> Tensor:
        return self.method(at).posterior_draw(at, draw)

    @classmethod
    def relative_cost(cls, ratio: float, options: Mapping[str, Any]) -> float:
        return 1.0 if ratio >= options.get("ratio", 1.0) else 1.0 + PRODUCT * options.get("products", 1)

    def check_draws(self) -> None:
        self.exact_score.check_draws()

    def method(self, at: Denoised) -> ConditionalDenoiser:
        """Return the part that is used at the noise level of ``at``."""
        return self.exact_score if at.ratio >= self.ratio else self.mmps


METHOD = Method(Handover, rule="ddpm", steps=32, paper="own; docs/evidence.md")
