r"""The pivot: one Gaussian observation of the image, equivalent to a noisy state and a measurement together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from invdiff.linalg import over_items
from invdiff.noise_covariance import NoiseCovariance

if TYPE_CHECKING:
    from .operator import LinearOperator

__all__ = ["pivot_levels", "pivot_of"]


def pivot_of(op: LinearOperator, x: Tensor, ratio: Tensor | float, y: Tensor) -> tuple[Tensor, NoiseCovariance] | None:
    """Return the pivot of ``x`` and ``y``; see :meth:`invdiff.operators.LinearOperator.pivot`."""
    if op.svd is None or not op.noise.white:
        return None
    svd = op.svd.to(x.device, x.dtype)
    s, seen, measured = svd.singular, svd.analyze(x), svd.measured(y)
    ratio = torch.as_tensor(ratio, dtype=x.dtype, device=x.device)
    level = over_items(ratio, seen) if ratio.ndim else ratio
    levels = pivot_levels(s, level, x.new_tensor(op.sigma_y))
    if op.sigma_y == 0:
        known = s > 0
        mean = torch.where(known, measured / torch.where(known, s, 1), seen)
    else:
        mean = levels**2 * (seen / level**2 + s / op.sigma_y * measured / op.sigma_y)
    return svd.synthesize(mean), NoiseCovariance(svd, levels.expand(-1 if ratio.ndim else 1, *svd.shape))


def pivot_levels(singular: Tensor, ratio: Tensor, sigma_y: Tensor) -> Tensor:
    r"""Return the standard deviations :math:`(1 / \varsigma^2 + s^2 / \sigma_y^2)^{-1/2}` of the noise of a pivot.

    Args:
        singular: Singular values :math:`s` of the operator.
        ratio: :math:`\varsigma > 0`, broadcastable to ``singular``.
        sigma_y: :math:`\sigma_y`, broadcastable to ``singular``; 0 for exact data, which gives 0 where :math:`s > 0`.
    """
    gain = torch.where(singular > 0, singular / sigma_y, 0)
    return (ratio**-2 + gain**2).rsqrt()
