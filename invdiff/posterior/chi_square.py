"""The chi-square statistic of samples: squared residuals over the noise variance."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.linalg import norm
from invdiff.operators import Operator

__all__ = ["chi_square", "chi_square_of_rows"]


def chi_square(op: Operator, x: Tensor, y: Tensor) -> Tensor:
    r"""Return :math:`\sum_i (y_i - z_i)^2 / v_i`, ``(B,)``, with :math:`z = A(x)` and :math:`v` the variance of the noise.

    See :meth:`~invdiff.operators.Noise.squared_misfit`: counts behind an absorber are compared as counts.

    For the true :math:`x` its expectation is the measurement dimension, for any noise model. If the noise is 0, the squared
    misfit itself is returned.
    """
    clean = op(x)
    if op.noise.white:
        return norm(y - clean) ** 2 / (op.sigma_y**2 or 1)
    return norm(op.keep_measured(op.noise.squared_misfit(y, clean).expand_as(y).sqrt())) ** 2


def chi_square_of_rows(op: Operator, x: Tensor, y: Tensor, items: int, *, rows: int) -> Tensor:
    """Return :func:`chi_square` of ``x``, whose rows cycle through the ``items``, computed ``rows`` at a time."""
    starts, whose = range(0, len(x), rows), [row % items for row in range(len(x))]
    return torch.cat([chi_square(op.take(whose[k : k + rows]), x[k : k + rows], y[k : k + rows]) for k in starts])
