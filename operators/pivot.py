r"""What a noisy state and a measurement say together: one Gaussian look at the image, in place of two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from invdiff.linalg import over_items
from invdiff.noise_covariance import NoiseCovariance

if TYPE_CHECKING:
    from .base import LinearOperator

__all__ = ["pivot_of"]


def pivot_of(op: LinearOperator, x: Tensor, ratio: Tensor | float, y: Tensor) -> tuple[Tensor, NoiseCovariance] | None:
    """Return the pivot of ``x`` and ``y``; see :meth:`invdiff.operators.LinearOperator.pivot`."""
    if op.svd is None or not op.noise.white:
        return None
    svd = op.svd.to(x.device, x.dtype)
    s, seen, measured = svd.singular, svd.analyse(x), svd.measured(y)
    ratio = torch.as_tensor(ratio, dtype=x.dtype, device=x.device)
    level = over_items(ratio, seen) if ratio.ndim else ratio
    if op.sigma_y == 0:
        known = s > 0
        mean, levels = torch.where(known, measured / torch.where(known, s, 1), seen), torch.where(known, 0, level)
    else:
        gain = s / op.sigma_y
        levels = (level**-2 + gain**2).rsqrt()
        mean = levels**2 * (seen / level**2 + gain * measured / op.sigma_y)
    return svd.synthesise(mean), NoiseCovariance(svd, levels.expand(-1 if ratio.ndim else 1, *svd.shape))
