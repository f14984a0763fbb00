"""Masks: some entries are measured and the others are missing, as in inpainting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..core.autograd import with_adjoint
from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator
from ..core.svd import SVD, CoordinateSVD
from ..core.validation import event_shape

__all__ = ["Mask"]

BITS = 2**24  # entries up to which the bits of a mask are kept, four bytes each


class Mask(LinearOperator):
    r"""A mask of measured (1) and missing (0) entries: the operator of inpainting.

    .. math:: y = m \odot (x + n), \qquad m_i \in \{0, 1\}, \quad n \sim \mathcal{N}(0, \sigma_y^2 I)

    ``y`` has the shape of ``x``. Missing entries of ``y`` are exactly 0 and have no noise. Input values in their place are
    ignored, even NaN. ``dof`` counts the measured entries only, and :math:`A = A^\top = A^+`.

    Args:
        mask: 1 (or True) where measured, 0 where missing, of any dtype.
        in_shape: Shape of one ``x``, to which the mask is broadcast: a mask ``(H, W)`` applies to every channel of
            ``(C, H, W)``. Default: the shape of the mask.
        sigma_y: Noise standard deviation of the measured entries, in the units of ``x``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Attributes:
        mask: Boolean, of shape ``in_shape``.
        measured: Number of measured entries.

    Raises:
        ValueError: If the mask holds anything but 0 and 1, measures nothing, or does not broadcast to ``in_shape``.
    """

    closed_form = True
    gram_scale = 1.0

    def __init__(
        self,
        mask: Tensor | np.ndarray,
        in_shape: Sequence[int] | None = None,
        *,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        given = torch.as_tensor(mask)
        measured = given == 1
        if not (measured | (given == 0)).all():
            others = sorted(set(given[~(measured | (given == 0))].tolist()))[:4]
            raise ValueError(
                f"Mask: mask must hold only 1 (measured) and 0 (missing), got also {', '.join(f'{v:g}' for v in others)}. "
                "Compare it with a threshold first, as in mask > 127."
            )
        shape = event_shape("Mask", given.shape if in_shape is None else in_shape)
        try:
            self.mask = measured.broadcast_to(shape).contiguous()
        except RuntimeError:
            raise ValueError(
                f"Mask: a mask of shape {tuple(given.shape)} does not broadcast to in_shape {shape}. "
                "Expected the shape of one image without the batch axis, or without the channel axis for all channels. "
                "For one mask per item of the batch: per_item([Mask(m, in_shape) for m in masks])."
            ) from None
        self.measured = int(self.mask.sum())
        if not self.measured:
            raise ValueError("Mask: every entry is missing (0), so nothing is measured. Mark measured entries with 1.")
        self.in_shape = self.out_shape = shape
        self.noise = noise_of(sigma_y, noise)
        self._bits: Tensor | None = None  # all bits of each measured entry

    @property
    def dof(self) -> int:
        return self.measured

    @property
    def known(self) -> Tensor | None:
        return self.mask if self.noise.white and self.noise.sigma == 0 else None

    def _summary(self) -> Sequence[str]:
        return (f"{100 * self.measured / torch.Size(self.in_shape).numel():.3g} % measured",)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32 or self.mask.numel() > BITS:
            return torch.where(self.mask.to(x.device), x, 0)  # A product would keep a NaN in a missing entry.
        return with_adjoint(x, self._kept, self._kept)

    def _kept(self, x: Tensor) -> Tensor:
        """Return what :func:`torch.where` would, in a twentieth of its time on a CPU: missing entries lose all their bits."""
        if self._bits is None:
            self._bits = -self.mask.to(torch.int32)
        return (x.view(torch.int32) & self._bits).view(torch.float32)

    def keep_measured(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        # v / (m + lam): two products of whole tensors are faster than a division of every entry by its own number.
        cut = (10 * torch.finfo(v.dtype).eps) ** 2  # numerically 0, as in pseudo_divide
        kept = self.forward(v)
        if isinstance(lam, Tensor):
            lam = lam.to(v)
            missing: Tensor | float = torch.where(lam > cut, 1 / lam, 0)
        else:
            missing = 1 / lam if lam > cut else 0.0
        return (v - kept) * missing + kept * (1 / (1 + lam))

    def prox(self, z: Tensor, y: Tensor, rho: Tensor | float) -> Tensor:
        rho = rho.to(z) if isinstance(rho, Tensor) else rho
        return z + self.forward(y - z) / (1 + rho)

    def pinv(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def _decompose(self) -> SVD:
        return CoordinateSVD(self.mask.double(), self.in_shape)
