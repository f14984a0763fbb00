"""Resizing of images, up and down by any ratio."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..blur.banded_product import SeparableProduct
from ..blur.separable import KroneckerSVD, Separable
from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator
from ..core.svd import SVD
from ..core.validation import image_shape, whole_number

__all__ = ["RESIZE_KERNELS", "Resize", "resize_matrix"]

RESIZE_KERNELS = ("area", "bicubic", "bilinear", "lanczos")
REACH = {"bicubic": 2, "bilinear": 1, "lanczos": 3}  # Half the support of the kernel, in pixels of the smaller image.


class Resize(LinearOperator):
    r"""Resizing to a smaller or larger size, with a separate ratio for each side.

    .. math:: y_c = L\, x_c\, R^\top + n, \qquad
        L_{ij} = \frac{\kappa(t_{ij})}{\sum_k \kappa(t_{ik})}, \quad
        t_{ij} = \frac{(j + \tfrac12) - (i + \tfrac12)\, \rho}{\max(\rho, 1)}, \quad \rho = H / P

    for a side of :math:`H` pixels resized to :math:`P`, and :math:`R` likewise. For :math:`P < H` the kernel :math:`\kappa` is
    widened by the ratio, to avoid aliasing (``antialias`` in torch and MATLAB):

    ======== ===================================================== =================================
    kernel   :math:`\kappa`                                        as in
    ======== ===================================================== =================================
    area     overlap with the area of the pixel of ``y``           Pillow's BOX, at integer ratios
    bilinear a triangle, over 2 pixels                             Pillow's BILINEAR
    bicubic  Keys' cubic with :math:`a = -1/2`, over 4 pixels      Pillow's BICUBIC, MATLAB's imresize
    lanczos  :math:`\operatorname{sinc} t\, \operatorname{sinc}`   Pillow's LANCZOS
             :math:`(t / 3)`, over 6 pixels
    ======== ===================================================== =================================

    Pixels beyond the border have zero weight, as in Pillow. MATLAB has the same weights but mirrors the image there, and
    torch without ``antialias`` uses :math:`a = -3/4`. ``solve`` has a closed form.

    Args:
        in_shape: Image shape ``(C, H, W)``, without the batch axis.
        out_size: Height and width of ``y``.
        kernel: One of ``RESIZE_KERNELS``.
        sigma_y: Noise standard deviation, in image units (images span [-1, 1]). Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If ``out_size`` is not two positive integers, or if the kernel is unknown.

    References:
        Keys, Cubic convolution interpolation for digital image processing, 1981, https://doi.org/10.1109/TASSP.1981.1163711
    """

    closed_form = True

    def __init__(
        self,
        in_shape: Sequence[int],
        out_size: Sequence[int],
        *,
        kernel: str,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        channels, height, width = image_shape("Resize", in_shape)
        if not isinstance(out_size, Sequence) or len(out_size) != 2:
            raise ValueError(f"Resize: out_size must be (height, width), got {out_size!r}.")
        size = whole_number("Resize", "out_size height", out_size[0]), whole_number("Resize", "out_size width", out_size[1])
        if kernel not in RESIZE_KERNELS:
            raise ValueError(f"Resize: unknown kernel {kernel!r}, expected one of {', '.join(RESIZE_KERNELS)}.")
        self.in_shape, self.out_shape = (channels, height, width), (channels, *size)
        self.kernel, self.noise = kernel, noise_of(sigma_y, noise)
        left, right = resize_matrix(height, size[0], kernel), resize_matrix(width, size[1], kernel)
        self.product = SeparableProduct(left, right)
        # Where the image grows, x is padded with zeros: A A^T does not change, and the matrices are no longer tall.
        sides = max(height, size[0]), max(width, size[1])
        wide = [
            torch.nn.functional.pad(matrix, (0, side - matrix.shape[1]))
            for matrix, side in zip((left, right), sides, strict=True)
        ]
        self.widened = Separable((channels, *sides), *wide)

    def forward(self, x: Tensor) -> Tensor:
        return self.product.forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.product.adjoint(y)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self.widened.solve(v, lam)

    def pinv(self, y: Tensor) -> Tensor:
        _, height, width = self.in_shape
        return self.widened.pinv(y)[..., :height, :width]

    def _decompose(self) -> SVD:
        left, right = self.product.left, self.product.right
        sides = left.to("cpu", torch.float64), right.to("cpu", torch.float64)
        reference = KroneckerSVD(self.in_shape, *sides, kind="decimation")
        return reference.to(left.device, left.dtype)


def resize_matrix(side: int, size: int, kernel: str) -> Tensor:
    """Return the matrix that resizes ``side`` pixels to ``size``, shape ``(size, side)``, float64.

    Args:
        side: Number of pixels of ``x`` along the axis.
        size: Number of pixels of ``y`` along the axis.
        kernel: One of ``RESIZE_KERNELS``.
    """
    ratio = side / size
    y, x = torch.arange(size, dtype=torch.float64).unsqueeze(1), torch.arange(side, dtype=torch.float64)
    if kernel == "area":
        weights = (torch.minimum(x + 1, (y + 1) * ratio) - torch.maximum(x, y * ratio)).clamp(min=0)
    else:
        t = ((x + 0.5) - (y + 0.5) * ratio).abs() / max(ratio, 1.0)
        if kernel == "bilinear":
            weights = 1 - t
        elif kernel == "lanczos":
            weights = t.sinc() * (t / 3).sinc()
        else:
            near, far = ((1.5 * t - 2.5) * t * t + 1), ((-0.5 * t + 2.5) * t - 4) * t + 2
            weights = torch.where(t < 1, near, far)
        weights = torch.where(t < REACH[kernel], weights, 0)
    return weights / weights.sum(1, keepdim=True)
