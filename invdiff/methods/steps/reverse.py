"""The reverse-diffusion loop for all guidances and step rules."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from invdiff.linalg import over_items
from invdiff.methods.denoised import Denoised, PosteriorMean, prior_mean
from invdiff.methods.divergence import EXPLOSION, BoundsCheck, check_bounds, lost
from invdiff.methods.guidance.guidance import ConditionalDenoiser, Correction, Guidance, Transition
from invdiff.methods.on_step import OnStep
from invdiff.methods.steps.ddim import DDIM
from invdiff.methods.steps.rule import StepRule
from invdiff.random import Draw, Draws, Streams

__all__ = ["advance", "back_off", "reverse_diffusion", "unguided_step"]

BACK_OFF = (0.5, 0.25, 0.125)


@torch.no_grad()
def reverse_diffusion(
    guidance: Guidance,
    times: Tensor,
    *,
    rule: StepRule | None,
    streams: Streams,
    on_step: OnStep | None = None,
    backs_off: bool = True,
) -> Tensor:
    r"""Draw :math:`x_T \sim \mathcal{N}(0, \sigma_T^2 I)` for every row of ``guidance.y``, and run the reverse diffusion.

    If the state of an item is not finite after a step, or its root mean square exceeds ``1e4 (1 + sigma_s)``, the guided step
    is replaced by a mixture with the unguided step of the same noise: one half, one quarter, then one eighth of the guidance.
    States that are not finite remain so and raise an error: a sample that silently ignored the measurement would be worse.

    Args:
        guidance: The guidance; holds ``y``, one row per sample.
        times: Decreasing, ``(steps + 1,)``, the last one noise-free.
        rule: The step rule; ``None`` for the guidance's own step.
        streams: One random stream per row.
        on_step: Called after every step.
        backs_off: Whether every state is looked at, and guidance weakened where it diverged. Otherwise the states are looked at
            every few steps only, so that a GPU need not be waited for, and diverged ones are an error.

    Returns:
        Samples ``(B, *event)``.

    Raises:
        DivergenceError: If an item diverges at every strength, or without ``backs_off`` at full strength.
    """
    dtype = guidance.y.dtype
    bounds = (EXPLOSION * (1 + guidance.score.schedule(times)[1])).tolist()
    x_t, check = guidance.start(times[0], Draws(streams, dtype)), BoundsCheck(guidance.y.device)
    for step, (t, s) in enumerate(itertools.pairwise(times), start=1):
        draw, at = Draws(streams, dtype), guidance.at(x_t, t)
        x_t, estimate = advance(guidance, rule, at, s, draw)
        _check_shape(x_t, at, guidance, "a state")
        if not backs_off:
            check(x_t, bound=bounds[step], step=step)
        elif lost(x_t, bounds[step]).any():
            x_t = back_off(x_t, unguided_step(rule, at, s, draw), bounds[step])
            check_bounds(x_t, bound=bounds[step], step=step)
        if on_step is not None:
            on_step(x_t, estimate)
    check.finish()
    return x_t


def _check_shape(x: object, at: Denoised, guidance: Guidance, what: str) -> None:
    if not isinstance(x, Tensor) or x.shape != at.x_t.shape:
        got = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"{type(guidance).__name__}: expected {what} of shape {tuple(at.x_t.shape)}, got {got}. The shapes that "
            "draw(...) takes have no batch axis, such as at.x_t.shape[1:]."
        )


def advance(guidance: Guidance, rule: StepRule | None, at: Denoised, s: Tensor, draw: Draw) -> tuple[Tensor, Tensor | None]:
    r"""Return the state after one guided step, and the estimate of :math:`x_0` used in it.

    Args:
        guidance: The guidance.
        rule: The step rule; ``None`` for the guidance's own step.
        at: State at the start of the step.
        s: Time at the end of the step.
        draw: Source of noise. The noise of the rule is drawn first.

    Raises:
        TypeError: If the guidance has no step of its own, or cannot follow a rule.
    """
    if rule is None:
        if not isinstance(guidance, Transition):
            raise TypeError(f"{type(guidance).__name__} has no step of its own: give a rule.")
        return guidance.transition(at, s, draw), at.estimate
    noise = draw(at.x_t.shape[1:])
    if isinstance(guidance, Correction) and guidance.corrects:
        return guidance.correct(rule(prior_mean, at, s, noise), at, s, draw), at.estimate
    if not isinstance(guidance, ConditionalDenoiser):
        raise TypeError(f"{type(guidance).__name__} follows no step rule: it has its own steps. Leave out the rule.")
    followed = _Followed(guidance, rule, at, s, draw)
    return rule(followed, at, s, noise), followed.first


class _Followed:
    """The mean, or the draws, that a rule follows in one step. The first one is kept as the estimate of the step."""

    def __init__(self, guidance: ConditionalDenoiser, rule: StepRule, at: Denoised, s: Tensor, draw: Draw) -> None:
        self.guidance, self.draw = guidance, draw
        self.mean: PosteriorMean | None = None if rule.follows_draws else guidance.step_mean(at, s, draw)
        self.first: Tensor | None = None

    def __call__(self, at: Denoised) -> Tensor:
        x_0 = self.guidance.posterior_draw(at, self.draw) if self.mean is None else self.mean(at)
        _check_shape(x_0, at, self.guidance, "an estimate of x_0")
        self.first = x_0 if self.first is None else self.first
        at.release()  # A second-order rule would otherwise hold two graphs at once.
        return x_0


def unguided_step(rule: StepRule | None, at: Denoised, s: Tensor, draw: Draws) -> Tensor:
    """Return the state after a step without guidance: by the rule, or by DDPM if the guidance has its own step."""
    # Fresh noise would advance the random streams of all rows, so reuse the noise of the step, or none if it drew none.
    noise = torch.zeros_like(at.x_t) if draw.first is None else draw.first.reshape(at.x_t.shape)
    return (rule or DDIM(eta=1.0))(prior_mean, at, s, noise)


def back_off(guided: Tensor, unguided: Tensor, bound: float) -> Tensor:
    """Return ``guided`` with diverged items moved toward ``unguided``, by the least amount that brings them within bounds."""
    x_s, gone = guided, lost(guided, bound)
    for strength in BACK_OFF:
        x_s = torch.where(over_items(gone, x_s), torch.lerp(unguided, guided, strength), x_s)
        gone = lost(x_s, bound)
    return x_s
