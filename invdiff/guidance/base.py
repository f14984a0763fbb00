r"""The interface of guidance: an approximation of :math:`E[x_0 | x_t, y]` that any step rule can follow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from invdiff.operators import LinearOperator, Operator
from invdiff.priors import ScoreModel
from invdiff.schedules import Schedule

__all__ = ["Guidance", "PosteriorMean", "StepRule", "denoise_and_pull_back", "require_linear"]

PosteriorMean = Callable[[Tensor, Tensor], Tensor]


class StepRule(Protocol):
    """One step of the reverse diffusion, from time ``t`` to an earlier ``s``, following a posterior mean."""

    def __call__(self, mean: PosteriorMean, schedule: Schedule, x_t: Tensor, t: Tensor, s: Tensor, noise: Tensor, /) -> Tensor:
        """Return ``x_s``. ``noise`` is standard normal, shaped like ``x_t``."""
        ...


class Guidance(ABC):
    r"""What the measurement tells about :math:`x_0` at time ``t``.

    Args:
        score: The prior.
        op: The measurement, with its noise model.
        y: What was measured, ``(B, *op.out_shape)``, one row per row of ``x_t``.
    """

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor) -> None:
        self.score, self.op, self.y = score, op, y

    @abstractmethod
    def posterior_mean(self, x_t: Tensor, t: Tensor) -> Tensor:
        r"""Return the approximation of :math:`E[x_0 | x_t, y]`, shaped like ``x_t``, without a graph."""

    def advance(self, rule: StepRule, x_t: Tensor, t: Tensor, s: Tensor, noise: Tensor, *, strength: float = 1.0) -> Tensor:
        r"""Return ``x_s``: by default, ``rule`` follows the posterior mean.

        Methods that push the state *after* the step (DPS as published) override this, and nothing else does.

        Args:
            rule: The step rule.
            x_t: State, ``(B, *event)``.
            t: Time of ``x_t``.
            s: Earlier time to go to.
            noise: Standard normal, like ``x_t``.
            strength: Share of the shift :math:`E[x_0 | x_t, y] - E[x_0 | x_t]` to apply; below 1 only where the full
                step diverged. What is not finite stays so: a sample that silently ignored the measurement would be worse.
        """

        def mean(x: Tensor, time: Tensor) -> Tensor:
            guided = self.posterior_mean(x, time)
            return guided if strength == 1 else torch.lerp(self.score.denoise(x, time), guided, strength)

        return rule(mean, self.score.schedule, x_t, t, s, noise)


def denoise_and_pull_back(score: ScoreModel, x_t: Tensor, t: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    r"""Return :math:`\hat x_0 = E[x_0 | x_t]` and :math:`v \mapsto J^\top v`, :math:`J = \partial \hat x_0 / \partial x_t`."""
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        x0_hat = score.denoise(x_t, t)

    def pull_back(v: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(x0_hat, x_t, v, retain_graph=True)
        return product

    return x0_hat.detach(), pull_back


def require_linear(method: str, op: Operator) -> LinearOperator:
    """Return ``op`` if it is linear, else say which method needs that."""
    if not isinstance(op, LinearOperator):
        raise ValueError(
            f"{method} needs a linear operator, got {type(op).__name__}. Use 'mmps' or 'dps' for nonlinear ones, "
            "or LinearFunction if the function is in fact linear."
        )
    return op
