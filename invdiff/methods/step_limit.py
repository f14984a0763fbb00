"""A limit on the shift that keeps explicit steps along a stiff likelihood score stable."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.linalg import norm, over_items
from invdiff.methods.denoised import Denoised
from invdiff.operators import LinearOperator

__all__ = ["limit_step", "share_of_step"]


def limit_step(shift: Tensor, linear: LinearOperator, residual: Tensor, *, share: float) -> Tensor:
    r"""Shorten ``shift`` of :math:`\hat x_0` so that a step does not overshoot the measurement, for each item separately.

    A step from :math:`\varsigma_t` to :math:`\varsigma_s` takes the share :math:`1 - \varsigma_s^2 / \varsigma_t^2` of a
    shift :math:`\Delta`. Where that share of :math:`\lVert A' \Delta \rVert` exceeds :math:`\lVert r \rVert`, the residual
    would change sign and grow from step to step; there the shift is scaled to equality. The share tends to 0 as the number of
    steps grows, so in the limit the method is unchanged.

    Args:
        shift: :math:`\Delta`, ``(B, *event)``.
        linear: The measurement, linearized at :math:`\hat x_0`.
        residual: :math:`r = y - A(\hat x_0)`, ``(B, *op.out_shape)``.
        share: Share of the shift that the step takes, in (0, 1], see :func:`share_of_step`.
    """
    reach, gap = share * norm(linear(shift)), norm(residual)
    over = reach > gap  # False where a value is not finite: it is passed on unchanged.
    return over_items(torch.where(over, gap / torch.where(over, reach, 1), 1), shift) * shift


def share_of_step(at: Denoised, s: Tensor) -> float:
    r"""Return :math:`1 - \varsigma_s^2 / \varsigma_t^2`, the share of a shift taken by a step to ``s``."""
    alpha_s, sigma_s = at.levels(s)
    return 1 - (sigma_s / alpha_s / at.ratio) ** 2
