r"""The interface of guidance: an approximation of :math:`E[x_0 | x_t, y]` that any step rule can follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from invdiff.methods.requirements import check_needs
from invdiff.operators import Operator
from invdiff.priors import ScoreModel
from invdiff.random import Draw
from invdiff.schedules import Schedule

__all__ = ["Guidance", "PosteriorMean", "StepRule", "denoise_and_pull_back"]

PosteriorMean = Callable[[Tensor, Tensor], Tensor]


class StepRule(Protocol):
    """One step of the reverse diffusion, from time ``t`` to an earlier ``s``, following a posterior mean."""

    def __call__(self, mean: PosteriorMean, schedule: Schedule, x_t: Tensor, t: Tensor, s: Tensor, noise: Tensor, /) -> Tensor:
        """Return ``x_s``. ``noise`` is standard normal, shaped like ``x_t``."""
        ...


class Guidance:
    r"""What the measurement tells about :math:`x_0` at time ``t``.

    Args:
        score: The prior.
        op: The measurement, with its noise model.
        y: What was measured, ``(B, *op.out_shape)``, one row per row of ``x_t``.

    Attributes:
        needs: What the algorithm requires of a measurement, keys of :data:`invdiff.methods.requirements.NEEDS`.
        any_noise: Whether it takes other laws than white Gaussian noise.
        one_operator: Whether all rows have to share one operator. Where items have operators of their own
            (:func:`invdiff.operators.algebra.per_item`), they are then run one after the other.
        own_step: Whether the algorithm states a step of its own, which it takes where no rule is given.
        follows_rules: Whether a step rule can follow it.
        starts_high: Whether it is at its best where noise drowns everything, too, as what follows a network's gradient is not.

    Raises:
        ValueError: If the measurement lacks what the algorithm needs.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    any_noise: ClassVar[bool] = False
    one_operator: ClassVar[bool] = False
    own_step: ClassVar[bool] = False
    follows_rules: ClassVar[bool] = True
    starts_high: ClassVar[bool] = False

    def __init__(self, score: ScoreModel, op: Operator, y: Tensor) -> None:
        check_needs(type(self).__name__, op, self.needs, any_noise=self.any_noise, one_operator=self.one_operator)
        self.score, self.op, self.y = score, op, y

    def start(self, t: Tensor, draw: Draw) -> Tensor:
        r"""Return the first state, :math:`x_T \sim \mathcal{N}(0, \sigma_T^2 I)` unless the method starts elsewhere."""
        return float(self.score.schedule(t)[1]) * draw(self.op.in_shape)

    def posterior_mean(self, x_t: Tensor, t: Tensor) -> Tensor:
        r"""Return the approximation of :math:`E[x_0 | x_t, y]`, shaped like ``x_t``, without a graph.

        By default the unconditional :math:`E[x_0 | x_t]`: what methods follow that correct the state after the step.
        """
        return self.score.denoise(x_t, t)

    def posterior_draw(self, x_t: Tensor, t: Tensor, draw: Draw, *, strength: float = 1.0) -> Tensor:
        r"""Return a draw of the approximation of :math:`p(x_0 | x_t, y)`, for rules that follow draws."""
        raise ValueError(
            f"{type(self).__name__} knows a mean of x_0 given x_t and y, but no law to draw from, which the rule 'matched' "
            "needs. Use 'mmps', or another rule."
        )

    def check_draws(self) -> None:
        """Raise a ``ValueError`` where :meth:`posterior_draw` is known, but not under this prior."""

    def advance(self, rule: StepRule | None, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, *, strength: float = 1.0) -> Tensor:
        r"""Return ``x_s``: by default, ``rule`` follows the posterior mean, or draws of the posterior.

        Methods that state a step of their own, or correct the state *after* the step, override this.

        Args:
            rule: The step rule; ``None`` for the method's own.
            x_t: State, ``(B, *event)``.
            t: Time of ``x_t``.
            s: Earlier time to go to.
            draw: The noise of this step.
            strength: Share of the shift :math:`E[x_0 | x_t, y] - E[x_0 | x_t]` to apply; below 1 only where the full
                step diverged. What is not finite stays so: a sample that silently ignored the measurement would be worse.
        """
        if rule is None:
            raise ValueError(f"{type(self).__name__} has no step of its own: give a rule.")

        def mean(x: Tensor, time: Tensor) -> Tensor:
            if getattr(rule, "follows_draws", False):
                return self.posterior_draw(x, time, draw, strength=strength)
            guided = self.posterior_mean(x, time)
            return guided if strength == 1 else torch.lerp(self.score.denoise(x, time), guided, strength)

        return rule(mean, self.score.schedule, x_t, t, s, draw(x_t.shape[1:]))


def denoise_and_pull_back(score: ScoreModel, x_t: Tensor, t: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    r"""Return :math:`\hat x_0 = E[x_0 | x_t]` and :math:`v \mapsto J^\top v`, :math:`J = \partial \hat x_0 / \partial x_t`."""
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        x0_hat = score.denoise(x_t, t)

    def pull_back(v: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(x0_hat, x_t, v, retain_graph=True)
        return product

    return x0_hat.detach(), pull_back
