"""A linear measurement in its SVD basis, where it decouples into scalar measurements."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.operators import LinearOperator, Operator

__all__ = ["SpectralData"]


class SpectralData:
    r"""The decoupled measurements :math:`\bar y_i = \bar x_i + (\sigma_y / s_i)\, n_i` for :math:`s_i > 0`.

    Here :math:`A = U \operatorname{diag}(s) V^\top`, :math:`\bar x = V^\top x`, :math:`\bar y_i = (U^\top y)_i / s_i`, and the
    :math:`n_i \sim \mathcal{N}(0, 1)` are independent.

    Args:
        op: A linear operator with ``svd``.
        y: Measurement, ``(B, *op.out_shape)``.

    Attributes:
        svd: The decomposition, on the device and in the dtype of ``y``.
        measured: Mask of :math:`s_i > 0`, shape of one :math:`\bar x`.
        y_bar: :math:`\bar y`, ``(B, *svd.shape)``; 0 where not measured.
        noise: :math:`\sigma_y / s_i`; infinite where not measured.

    Raises:
        ValueError: If ``op`` has no known singular value decomposition.
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
