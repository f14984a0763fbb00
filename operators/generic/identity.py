"""The identity: the image itself plus noise, as in denoising."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator, pseudo_divide
from ..core.svd import SVD, CoordinateSVD
from ..core.validation import event_shape

__all__ = ["Identity"]


class Identity(LinearOperator):
    r"""All entries of ``x`` plus noise: the operator of denoising.

    .. math:: y = x + n, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    Args:
        in_shape: Shape of one ``x``, without the batch axis; any number of axes.
        sigma_y: Noise standard deviation, in the units of ``x``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        TypeError: If ``in_shape`` is not a sequence of integers.
        ValueError: If ``in_shape`` is empty or one of the integers is not positive.
    """

    closed_form = True
    gram_scale = 1.0

    def __init__(self, in_shape: Sequence[int], *, sigma_y: float = 0.0, noise: Noise | None = None) -> None:
        self.in_shape = self.out_shape = event_shape("Identity", in_shape)
        self.noise = noise_of(sigma_y, noise)

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()  # A copy, so that changing y in place does not change x.

    def adjoint(self, y: Tensor) -> Tensor:
        return y.clone()

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return pseudo_divide(v, v.new_ones(()), lam)

    def pinv(self, y: Tensor) -> Tensor:
        return y.clone()

    def _decompose(self) -> SVD:
        return CoordinateSVD(torch.ones((), dtype=torch.float64), self.in_shape)
