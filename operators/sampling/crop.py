"""A rectangular part of a larger image is measured: outpainting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator, pseudo_divide
from ..core.svd import SVD
from ..core.validation import event_shape
from ..core.windows import window_slices

__all__ = ["Crop", "CropSVD"]


class Crop(LinearOperator):
    r"""A rectangular window of the image: the operator of outpainting, where ``x`` is larger than ``y``.

    .. math:: y_{ij} = x_{t + i,\, l + j} + n_{ij}, \qquad 0 \le i < h,\; 0 \le j < w,
        \qquad n \sim \mathcal{N}(0, \sigma_y^2 I)

    The rows are orthonormal, :math:`A A^\top = I` and :math:`A^+ = A^\top`: ``adjoint`` and ``pinv`` surround the window with
    zeros (mid-gray, as images span [-1, 1]), and ``solve`` divides by :math:`1 + \lambda`. Unlike for :class:`Mask`, ``y``
    has only the size of the window.

    Args:
        in_shape: Shape of one ``x``, without the batch axis: ``(H, W)``, ``(C, H, W)``, or more axes in front. The last two
            axes are cropped.
        top: :math:`t`, first row of the window, counted from 0 at the top.
        left: :math:`l`, first column of the window, counted from 0 at the left.
        height: :math:`h`, rows of the window.
        width: :math:`w`, columns of the window.
        sigma_y: Noise standard deviation, in the units of ``x``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        TypeError: If a size or a position is not an integer.
        ValueError: If ``in_shape`` has fewer than two axes, or if the window is empty or reaches beyond the image.

    References:
        Lugmayr et al., RePaint, 2022, https://arxiv.org/abs/2201.09865 (the mask "Expand")
    """

    closed_form = True
    gram_scale = 1.0

    def __init__(
        self,
        in_shape: Sequence[int],
        *,
        top: int,
        left: int,
        height: int,
        width: int,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        shape = event_shape("Crop", in_shape)
        if len(shape) < 2:
            raise ValueError(f"Crop: in_shape must end in (H, W), without the batch axis, got {shape}.")
        sides = shape[-2], shape[-1]
        rows, columns = window_slices("Crop", sides, top=top, left=left, height=height, width=width)
        self.in_shape, self.out_shape = shape, (*shape[:-2], rows.stop - rows.start, columns.stop - columns.start)
        self.margins = columns.start, sides[1] - columns.stop, rows.start, sides[0] - rows.stop  # In the order of F.pad.
        self.noise = noise_of(sigma_y, noise)

    @property
    def known(self) -> Tensor | None:
        if not (self.noise.white and self.noise.sigma == 0):
            return None
        return self.adjoint(torch.ones(1, *self.out_shape, dtype=torch.bool))[0]

    def forward(self, x: Tensor) -> Tensor:
        # Negative padding is one node of the autograd graph. Two slices and the copy would be three.
        return F.pad(x, [-margin for margin in self.margins])

    def adjoint(self, y: Tensor) -> Tensor:
        return F.pad(y, self.margins)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return pseudo_divide(v, v.new_ones(()), lam)

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y)

    def _decompose(self) -> SVD:
        return CropSVD(self.in_shape, self.margins)


class CropSVD(SVD):
    r"""SVD of a crop: :math:`V = I`, with :math:`s = 1` inside the window and 0 around it.

    Args:
        in_shape: Shape of one ``x``, which is also the shape of the coordinates.
        margins: Columns left and right of the window, then rows above and below it.
    """

    kind = "pixel"

    def __init__(self, in_shape: tuple[int, ...], margins: tuple[int, int, int, int]) -> None:
        self.shape, self.margins = in_shape, margins
        left, right, top, bottom = margins
        inside = torch.ones(in_shape[-2] - top - bottom, in_shape[-1] - left - right, dtype=torch.float64)
        self._values = F.pad(inside, margins)

    def analyze(self, x: Tensor) -> Tensor:
        return x.clone()

    def synthesize(self, x_bar: Tensor) -> Tensor:
        return x_bar.clone()

    def _rotate(self, y: Tensor) -> Tensor:
        return F.pad(y, self.margins)

    def diagonal(self, values: Tensor) -> Tensor:
        return values
