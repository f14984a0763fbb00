"""One step of a guidance, as the loop takes it, and its posterior mean at a state."""

from __future__ import annotations

from torch import Tensor

from invdiff.methods.guidance import ConditionalDenoiser, Guidance
from invdiff.methods.steps import StepRule
from invdiff.methods.steps.reverse import advance
from invdiff.random import Draw

__all__ = ["posterior_mean", "step"]


def step(guidance: Guidance, rule: StepRule | None, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw) -> Tensor:
    return advance(guidance, rule, guidance.at(x_t, t), s, draw)[0]


def posterior_mean(guidance: ConditionalDenoiser, x_t: Tensor, t: Tensor) -> Tensor:
    return guidance.posterior_mean(guidance.at(x_t, t))
