"""What keeps explicit steps along a stiff likelihood score stable."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.linalg import norm, over_items
from invdiff.methods.denoised import Denoised
from invdiff.operators import Operator

__all__ = ["limit_step", "share_of_step"]


def limit_step(shift: Tensor, op: Operator, x0_hat: Tensor, residual: Tensor, *, share: float) -> Tensor:
    r"""Shorten ``shift`` of :math:`\hat x_0` so that a step does not overshoot the measurement, each item by itself.

    A step from :math:`\varsigma_t` to :math:`\varsigma_s` takes the share :math:`1 - \varsigma_s^2 / \varsigma_t^2` of a
    shift :math:`\Delta`. Where that share of :math:`\lVert A' \Delta \rVert` exceeds the residual :math:`\lVert r \rVert`, the
    residual would change its sign and grow from step to step; there the shift is scaled to equality. Shares vanish as the
    steps grow in number, and so does this: in the limit the score is the method's own.

    Args:
        shift: :math:`\Delta`, ``(B, *event)``.
        op: The measurement.
        x0_hat: Where it is linearized, ``(B, *event)``.
        residual: :math:`r = y - A(\hat x_0)`, ``(B, *op.out_shape)``.
        share: Number in (0, 1], see :func:`share_of_step`.
    """
    reach, gap = share * norm(op.jacobian(x0_hat)(shift)), norm(residual)
    over = reach > gap  # Never where something is not finite: that stays so.
    return over_items(torch.where(over, gap / torch.where(over, reach, 1), 1), shift) * shift


def share_of_step(at: Denoised, s: Tensor) -> float:
    r"""Return :math:`1 - \varsigma_s^2 / \varsigma_t^2`, the share of a shift that a step to ``s`` takes."""
    alpha_s, sigma_s = at.levels(s)
    return 1 - (sigma_s / alpha_s / at.ratio) ** 2
