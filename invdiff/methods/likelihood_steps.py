r"""Shared parts of the methods that alternate between prior and likelihood: time grids to zero noise, and the data step."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.linalg import dot, norm, over_items
from invdiff.operators import LinearOperator, Noise, Operator
from invdiff.random import Draw
from invdiff.schedules import Schedule

__all__ = ["check_likelihood", "draw_near", "times_below"]

ACCEPTANCE = 0.574  # optimal acceptance rate of Metropolis-adjusted Langevin steps (Roberts & Rosenthal, 1998)


def check_likelihood(name: str, op: Operator, noise: Noise) -> None:
    """Raise a ``ValueError`` for exact data of a nonlinear operator: :func:`draw_near` then has no density to sample."""
    if noise.sigma == 0 and not isinstance(op, LinearOperator):
        raise ValueError(
            f"{name} takes Langevin steps for a nonlinear operator, which needs noise in the measurement "
            f"(sigma_y > 0), got {type(op).__name__} with sigma_y = 0. Give the operator a small sigma_y."
        )


def times_below(schedule: Schedule, t: Tensor, steps: int) -> Tensor:
    r"""Return ``steps + 1`` decreasing times from ``t`` to the noise-free one, uniform in :math:`\varsigma^{1/7}`.

    The last level before zero noise is the smallest of the schedule, or half the level of ``t`` if that is smaller.
    """
    high = float(schedule.ratio(t))
    low = min(float(schedule.ratio(schedule.t_min)), high / 2)
    roots = torch.linspace(high ** (1 / 7), low ** (1 / 7), steps, dtype=torch.float64)
    return schedule.time(torch.cat([roots**7, torch.zeros(1, dtype=torch.float64)]))


def draw_near(op: Operator, y: Tensor, center: Tensor, *, radius: float, noise: Noise, steps: int, draw: Draw) -> Tensor:
    r"""Return a draw of :math:`\propto \mathcal{N}(x; c, r^2 I)\, p(y | A(x))`, one per item.

    The draw is exact if ``op`` is linear and the noise :math:`\mathcal{N}(0, \sigma^2 I)`, by perturbing and solving:

    .. math:: x = \arg\min_x \lVert y + \sigma e_2 - A x \rVert^2 + \frac{\sigma^2}{r^2} \lVert x - (c + r e_1) \rVert^2,
        \qquad e_1, e_2 \sim \mathcal{N}(0, I)

    Otherwise it takes Langevin steps from :math:`c`, each accepted or rejected by the Metropolis rule, so that a step that is
    too large is rejected instead of diverging. The step size starts at the inverse of the curvature
    :math:`\lVert J_A \rVert^2 / \sigma^2 + 1 / r^2` at :math:`c`, and is adapted in the first half of the steps.

    Args:
        op: The measurement; its own noise model is not used.
        y: Measurement, ``(B, *op.out_shape)``.
        center: :math:`c`, ``(B, *op.in_shape)``.
        radius: :math:`r > 0`.
        noise: Noise model of the measurement. Exact data (``sigma`` 0) only if ``op`` is linear.
        steps: Langevin steps.
        draw: Source of standard normal noise.
    """
    sigma = noise.sigma
    if isinstance(op, LinearOperator) and noise.white:
        perturbed = center + radius * draw(op.in_shape)
        return op.prox(perturbed, y + op.keep_measured(sigma * draw(op.out_shape)), sigma**2 / radius**2)

    def potential(x: Tensor) -> tuple[Tensor, Tensor]:  # minus the log density, and its gradient
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            log_likelihood = op.keep_measured(noise.log_likelihood(y, op(x))).flatten(1).sum(1)
            value = norm(x - center) ** 2 / (2 * radius**2) - log_likelihood
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient

    h = 1 / (_squared_norm(op, center, draw) / sigma**2 + 1 / radius**2)
    value, gradient = potential(center)
    # From a non-finite value every step would be rejected, and the measurement silently ignored: return NaN instead.
    x = torch.where(over_items(value.isfinite(), center), center, torch.nan)
    for step in range(steps):
        h_x = over_items(h, x)
        proposal = x - h_x * gradient + (2 * h_x).sqrt() * draw(op.in_shape)
        value_new, gradient_new = potential(proposal)
        there, back = norm(proposal - x + h_x * gradient) ** 2, norm(x - proposal + h_x * gradient_new) ** 2
        log_u = torch.special.log_ndtr(draw(())).to(value)
        accepted = log_u < value - value_new + (there - back) / (4 * h)
        x = torch.where(over_items(accepted, x), proposal, x)
        value = torch.where(accepted, value_new, value)
        gradient = torch.where(over_items(accepted, x), gradient_new, gradient)
        if step < steps // 2:
            h = h * (0.5 * (accepted.to(h) - ACCEPTANCE)).exp()
    return x


def _squared_norm(op: Operator, x: Tensor, draw: Draw) -> Tensor:
    r"""Return :math:`\lVert J_A \rVert^2` of every item at ``x``, by three power iterations: a lower bound, ``(B,)``."""
    linear, v = op.jacobian(x), draw(op.in_shape)
    square = torch.zeros_like(norm(v))
    for _ in range(3):
        v = v / over_items(norm(v).clamp(min=torch.finfo(v.dtype).tiny), v)
        image = linear.adjoint(linear(v))
        square, v = dot(v, image), image
    return square
