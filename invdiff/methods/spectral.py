"""A linear measurement in the coordinates in which it is one scalar measurement after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.operators import LinearOperator, Operator

__all__ = ["SpectralData"]


class SpectralData:
    r"""The measurement :math:`\bar y_i = \bar x_i + (\sigma_y / s_i)\, n_i`, where :math:`s_i > 0`.

    With :math:`A = U \operatorname{diag}(s) V^\top`, these are :math:`\bar x = V^\top x` and
    :math:`\bar y_i = (U^\top y)_i / s_i`, all noises independent.

    Args:
        op: A linear operator with ``svd``.
        y: Measurement, ``(B, *op.out_shape)``.

    Attributes:
        svd: The decomposition, on the device and in the dtype of ``y``.
        measured: Where :math:`s_i > 0`, of the shape of one :math:`\bar x`.
        y_bar: :math:`\bar y`, ``(B, *svd.shape)``; 0 where not measured.
        noise: :math:`\sigma_y / s_i`; infinite where not measured.

    Raises:
        ValueError: If no decomposition of ``op`` is known.
    """

    def __init__(self, op: Operator, y: Tensor) -> None:
        svd = op.svd if isinstance(op, LinearOperator) else None
        if svd is None:
            raise ValueError(f"SpectralData: the singular value decomposition of {type(op).__name__} is not known.")
        self.svd = svd.to(y.device, y.dtype)
        singular = self.svd.singular.to(y)
        self.measured = singular > 0
        divisor = torch.where(self.measured, singular, 1)
        self.y_bar = self.svd.measured(y) / divisor
        self.noise = torch.where(self.measured, op.sigma_y / divisor, torch.inf)
