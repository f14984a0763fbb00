"""Weighted sums of the channels of every pixel: color to gray, spectral response, unmixing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator, pseudo_divide
from ..core.svd import SVD
from ..core.validation import event_shape, real_matrix

__all__ = ["GRAY_WEIGHTS", "ChannelMix", "ChannelSVD"]

GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # Weights of red, green and blue in the luma of ITU-R BT.601.

WELL_CONDITIONED = 100  # ratio of the eigenvalues up to which the inverse of A A^T + lambda I is one matrix


class ChannelMix(LinearOperator):
    r"""The same matrix applied to the channels of every pixel.

    .. math:: y_{cp} = \sum_k M_{ck}\, x_{kp} + n_{cp}, \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    with the pixel index :math:`p`. The operator has the singular values of :math:`M = U S V^\top`, each repeated for every
    pixel, and no method costs more than a few times as much as ``forward``:

    .. math:: (A A^\top + \lambda I)^{-1} v = U \left[ (U^\top v)_i / (s_i^2 + \lambda) \right]
        + (v - U U^\top v) / \lambda

    and :math:`A^+ = V S^+ U^\top`. The last term is omitted for :math:`\lambda = 0`. :math:`M` may have any rank.

    For color to gray see ``ChannelMix.gray``. If ``matrix`` is the spectral response ``(bands of the sensor, bands of the
    scene)``, this models a camera; if its columns are the spectra of the materials, ``(bands, materials)``, it is linear
    mixing, whose inverse is unmixing. The matrix is not normalized: rows that do not sum to one change the brightness.

    Args:
        in_shape: Shape of one ``x``, channels first: ``(C, H, W)``, or ``C`` and any other axes, or ``(C,)``.
        matrix: :math:`M`, shape ``(out_channels, C)``, real. Measurements are ``(B, out_channels, H, W)``.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Attributes:
        matrix: :math:`M`, a float64 copy.

    Raises:
        TypeError: If ``in_shape`` is not a sequence of integers or ``matrix`` is complex.
        ValueError: If the matrix is not two-dimensional, is not finite, holds only zeros, or does not have ``C`` columns.

    References:
        Bioucas-Dias et al., Hyperspectral Unmixing Overview, 2012, https://arxiv.org/abs/1202.6294 (linear mixing)
    """

    closed_form = True

    def __init__(
        self,
        in_shape: Sequence[int],
        matrix: Tensor | np.ndarray,
        *,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        self.in_shape, self.matrix = event_shape("ChannelMix", in_shape), real_matrix("ChannelMix", "matrix", matrix)
        outputs, inputs = self.matrix.shape
        if inputs != self.in_shape[0]:
            raise ValueError(
                f"ChannelMix: matrix must have one column per channel, {self.in_shape[0]} for in_shape {self.in_shape}, "
                f"got shape ({outputs}, {inputs}). Its rows are the channels of y."
            )
        if not self.matrix.any():
            raise ValueError("ChannelMix: matrix holds only zeros, so nothing is measured.")
        self.out_shape = outputs, *self.in_shape[1:]
        self.noise = noise_of(sigma_y, noise)
        # All columns of U, and the columns of V that span the row space.
        self.u, self.singular, self.vt = torch.linalg.svd(self.matrix, full_matrices=outputs > inputs)
        largest, smallest = float(self.singular[0]), float(self.singular[-1])
        if outputs <= inputs and smallest >= (1 - 1e-14) * largest:  # Equal up to rounding; always true for one row.
            self.gram_scale = largest**2

    @classmethod
    def gray(cls, in_shape: Sequence[int], *, sigma_y: float = 0.0, noise: Noise | None = None) -> Self:
        r"""Return the operator from color to gray, :math:`y = 0.299\, R + 0.587\, G + 0.114\, B`: colorization.

        This is the luma of ITU-R BT.601, computed from the stored values (gamma-encoded, not linear light), like
        ``convert("L")`` of Pillow and ``rgb_to_grayscale`` of kornia. The weights sum to one, so an image that spans [-1, 1]
        gives a gray image that spans [-1, 1]. For the plain mean of DDRM and DDNM give ``ChannelMix`` a row of thirds.

        Args:
            in_shape: ``(3, H, W)``: red, green and blue.
            sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
            noise: A noise model, instead of ``sigma_y``.

        References:
            ITU-R Recommendation BT.601, https://www.itu.int/rec/R-REC-BT.601
        """
        return cls(in_shape, torch.tensor([GRAY_WEIGHTS], dtype=torch.float64), sigma_y=sigma_y, noise=noise)

    def forward(self, x: Tensor) -> Tensor:
        return _mix(self.matrix, x)

    def adjoint(self, y: Tensor) -> Tensor:
        return _mix(self.matrix.mT, y)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        # In a complete basis of the channels of y: the part of v outside the range of M is divided by lambda. A difference
        # v - U U^T v would contain rounding errors within the range, which adjoint does not remove.
        gram = torch.nn.functional.pad(self.singular.to(v) ** 2, (0, len(self.u) - len(self.singular)))
        if isinstance(lam, Tensor) and lam.ndim:
            lam = lam.reshape(-1, 1, 1)
        u, weights = self.u.to(v), pseudo_divide(torch.ones_like(gram), gram, lam)
        if v.device.type == "cpu" and bool(weights.amax() <= WELL_CONDITIONED * weights.amin()):  # No digits to lose.
            return _mix((u * weights) @ u.mT, v)
        return _mix(u * weights, _mix(u.mT, v))

    def pinv(self, y: Tensor) -> Tensor:
        # Divides by each singular value once. Going through solve would square the condition number.
        singular = self.singular.to(y)
        return _mix((self.vt.to(y).mT * pseudo_divide(singular, singular**2, 0.0)) @ self.u.to(y)[:, : len(singular)].mT, y)

    def _decompose(self) -> SVD:
        matrix = self.matrix.to("cpu", torch.float64)
        return ChannelSVD(self.in_shape, matrix).to(self.matrix.device, self.matrix.dtype)


class ChannelSVD(SVD):
    r"""SVD of one matrix :math:`M = U S V^\top` over the channels of every pixel: :math:`\bar x_p = V^\top x_p`.

    Coordinates have the layout of the image, with the channels in descending order of the singular values. :math:`V` is
    square: unlike in the operator, it is completed by a basis of the null space.

    Args:
        in_shape: Shape of one ``x``, channels first; the coordinates have it too.
        matrix: :math:`M`, shape ``(out_channels, C)``, float64.
    """

    def __init__(self, in_shape: tuple[int, ...], matrix: Tensor) -> None:
        outputs, inputs = matrix.shape
        u, singular, self.vt = torch.linalg.svd(matrix, full_matrices=outputs < inputs)  # All columns of V in either case.
        unmeasured = inputs - len(singular)
        self.ut = torch.nn.functional.pad(u.mT, (0, 0, 0, unmeasured))
        values = torch.nn.functional.pad(singular, (0, unmeasured))
        self._values, self.shape = values.reshape(-1, *(1,) * (len(in_shape) - 1)), in_shape

    def analyze(self, x: Tensor) -> Tensor:
        return _mix(self.vt, x)

    def synthesize(self, x_bar: Tensor) -> Tensor:
        return _mix(self.vt.mT, x_bar)

    def _rotate(self, y: Tensor) -> Tensor:
        return _mix(self.ut, y)


def _mix(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiply the channels of every pixel of ``(B, C, ...)`` by ``matrix``, ``(P, C)`` or ``(B, P, C)``, one per item."""
    # A matrix product, which a GPU computes in full precision. It may round a convolution to a ten-bit mantissa (TF32).
    pixels = x.unsqueeze(-1).flatten(2)
    return (matrix.to(x) @ pixels).reshape(len(x), matrix.shape[-2], *x.shape[2:])
