"""The DCT coefficients of a JPEG file before rounding: a linear operator for JPEG artifact removal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.linalg import over_items

from ..core.autograd import with_adjoint
from ..core.noise import Noise, noise_of
from ..core.operator import LinearOperator, pseudo_divide
from ..core.validation import image_shape
from ..sampling.channel_mix import GRAY_WEIGHTS

__all__ = ["SUBSAMPLINGS", "JPEGCoefficients"]

SIDE = 8  # Side of a block, in pixels.
SUBSAMPLINGS = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:4:0": (2, 1), "4:2:0": (2, 2)}  # Rows, columns of luma per chroma value.


class JPEGCoefficients(LinearOperator):
    r"""The DCT coefficients of a JPEG file before rounding.

    .. math:: y = D\, S\, M x + n, \qquad M = \begin{pmatrix} 0.299 & 0.587 & 0.114 \\ -0.1687 & -0.3313 & 0.5 \\
        0.5 & -0.4187 & -0.0813 \end{pmatrix}

    :math:`M` computes luma and the two chroma of every pixel, :math:`S` averages the chroma over ``subsampling``, and
    :math:`D` is the orthonormal cosine transform of the 8 x 8 blocks of every plane. The rounding is modeled as noise: see
    :class:`~invdiff.problems.Dejpeg` and ``RoundingNoise``. An image with one channel has luma only, like a gray JPEG.

    **Shape of y**: ``(K, R, S)``, with one position per minimum coded unit (MCU) of the file. For 4:2:0 an MCU is a square of
    16 x 16 pixels and ``K = 64 * 6``: the four luma blocks, row by row, then :math:`C_b`, then :math:`C_r`, each with 64
    coefficients, row by row (not in zigzag order). ``K`` is 64 * 3 for 4:4:4, 64 * 4 for 4:2:2 and 4:4:0, and 64 for a gray
    image.

    **Units of y**: coefficients of planes that span [-1, 1]. A sample ``s`` of libjpeg is :math:`s - 128 = 127.5\, x - 0.5` for
    luma and :math:`s - 128 = 127.5\, x` for chroma, so its coefficients are :math:`127.5\, y`, minus 4 for the first luma
    coefficient (DC).

    **Sides that are not multiples of the MCU** are padded as in libjpeg: to the right with the last pixel, and to the bottom
    with the last row of each plane, for chroma after averaging (an odd last row is its own mean). Luma blocks that lie
    completely outside the image are not measured and are 0 in ``y``: the format requires them, but their content is arbitrary.

    If the image consists of whole MCUs, all methods have closed forms. Consider the :math:`c` pixels that share one chroma
    value. The deviations of luma from its mean over these pixels do not interact with chroma, and are measured by rows of
    squared norm :math:`g = |m_Y|^2`. The mean, times :math:`\sqrt c`, and the two chroma form a 3 x 3 system
    :math:`G = E M M^\top E` with :math:`E = \operatorname{diag}(1, c^{-1/2}, c^{-1/2})`:

    .. math:: (A A^\top + \lambda I)^{-1} = D \left[ (G + \lambda I)^{-1} \oplus (g + \lambda)^{-1} I \right] D^\top

    Otherwise ``solve`` is iterative, preconditioned by this formula.

    Args:
        in_shape: Image shape ``(C, H, W)``, without the batch axis; ``C`` is 3 (RGB) or 1 (gray).
        subsampling: ``4:4:4``, ``4:2:2`` (half as many columns for chroma), ``4:4:0`` (half as many rows) or ``4:2:0`` (both).
            It has no effect for one channel.
        sigma_y: Noise standard deviation, in the units of ``y``. Zero: no noise.
        noise: A noise model, instead of ``sigma_y``.

    Attributes:
        cell: Rows and columns of luma per chroma value.
        whole: True if the image consists of whole MCUs, so that ``solve`` has a closed form.

    Raises:
        ValueError: If the image has neither 3 channels nor 1, or the subsampling is unknown.

    References:
        ITU-T Recommendation T.81, https://www.w3.org/Graphics/JPEG/itu-t81.pdf, sections A.1 to A.3; T.871 (JFIF),
        https://www.itu.int/rec/T-REC-T.871, section 7 (:math:`M`)
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        subsampling: str,
        *,
        sigma_y: float = 0.0,
        noise: Noise | None = None,
    ) -> None:
        channels, height, width = image_shape("JPEGCoefficients", in_shape)
        if channels not in (1, 3):
            raise ValueError(f"JPEGCoefficients: in_shape must have 3 channels (RGB) or 1 (gray), got {channels}.")
        if subsampling not in SUBSAMPLINGS:
            raise ValueError(
                f"JPEGCoefficients: unknown subsampling {subsampling!r}, expected one of {', '.join(SUBSAMPLINGS)}."
            )
        self.in_shape, self.subsampling, self.noise = (channels, height, width), subsampling, noise_of(sigma_y, noise)
        self.cell = SUBSAMPLINGS[subsampling] if channels == 3 else (1, 1)
        v, h = self.cell
        rows, columns = -(-height // (SIDE * v)), -(-width // (SIDE * h))
        self.luma_blocks = v * h
        self.out_shape = SIDE**2 * (self.luma_blocks + channels - 1), rows, columns
        self.whole = (height, width) == (SIDE * v * rows, SIDE * h * columns)
        self.closed_form = self.whole
        self.gram_scale = 1.0 if self.whole and channels == 1 else None

        k = torch.arange(SIDE, dtype=torch.float64)
        cosines = (2 / SIDE) ** 0.5 * torch.cos(math.pi / SIDE * k.unsqueeze(1) * (k + 0.5))
        cosines[0] = SIDE**-0.5
        self.transform = torch.kron(cosines, cosines)  # (64 coefficients, 64 pixels)
        self.mix = _luma_and_chroma() if channels == 3 else torch.ones(1, 1, dtype=torch.float64)
        # G of the closed form, by its eigenvectors, and g.
        scaled = self.mix / torch.tensor([1.0, *[self.luma_blocks**0.5] * (channels - 1)], dtype=torch.float64).unsqueeze(1)
        self.gram, self.vectors = torch.linalg.eigh(scaled @ scaled.mT)
        self.luma_gram = self.mix[0].square().sum()
        self.measured = self._measured()

    @property
    def dof(self) -> int:
        return int(self.measured.sum())

    def forward(self, x: Tensor) -> Tensor:
        return with_adjoint(x, self._forward, self._adjoint)

    def adjoint(self, y: Tensor) -> Tensor:
        return with_adjoint(y, self._adjoint, self._forward)

    def keep_measured(self, y: Tensor) -> Tensor:
        return y if self.whole else torch.where(self.measured.to(y.device), y, 0)

    def solve(self, v: Tensor, lam: Tensor | float) -> Tensor:
        return self._solve_whole(v, lam) if self.whole else super().solve(v, lam)

    def precondition(self, v: Tensor, lam: Tensor | float) -> Tensor:
        if self.whole or self._small:
            return self.solve(v, lam)
        inside = self.keep_measured(self._solve_whole(self.keep_measured(v), lam))
        return inside + pseudo_divide(v - self.keep_measured(v), v.new_zeros(()), lam)

    def decode(self, y: Tensor) -> Tensor:
        """Return the picture ``(B, C, H, W)`` that a viewer would show for the coefficients ``y``.

        Chroma is interpolated linearly, as in libjpeg, but without its rounding to 8 bits. Values are clipped to [-1, 1].
        """
        luma, chroma = self._planes(y)
        _, height, width = self.in_shape
        if chroma is None:
            return luma[..., :height, :width].clamp(-1, 1)
        v, h = self.cell
        chroma = chroma[..., : -(-height // v), : -(-width // h)]
        chroma = F.interpolate(chroma, scale_factor=(float(v), float(h)), mode="bilinear", align_corners=False)
        planes = torch.cat([luma[..., :height, :width], chroma[..., :height, :width]], 1)
        return _mix(torch.linalg.inv(self.mix), planes).clamp(-1, 1)

    def _forward(self, x: Tensor) -> Tensor:
        planes = _mix(self.mix, x)
        v, h = self.cell
        _, rows, columns = self.out_shape
        luma = _extend(planes[:, :1], SIDE * v * rows, SIDE * h * columns)
        if len(self.mix) == 1:
            return self._coefficients(luma, None)
        chroma = _extend(planes[:, 1:], -(-x.shape[-2] // v) * v, SIDE * h * columns)
        chroma = _extend(F.avg_pool2d(chroma, self.cell), SIDE * rows, SIDE * columns)
        return self.keep_measured(self._coefficients(luma, chroma))

    def _adjoint(self, y: Tensor) -> Tensor:
        luma, chroma = self._planes(self.keep_measured(y))
        _, height, width = self.in_shape
        luma = _fold(luma, height, width)
        if chroma is None:
            return luma
        v, _ = self.cell
        chroma = _repeat(_fold(chroma, -(-height // v), chroma.shape[-1]), self.cell) / self.luma_blocks
        return _mix(self.mix.mT, torch.cat([luma, _fold(chroma, height, width)], 1))

    def _solve_whole(self, v: Tensor, lam: Tensor | float) -> Tensor:
        lam = over_items(lam.to(v), v) if isinstance(lam, Tensor) and lam.ndim else lam
        luma, chroma = self._planes(v)
        if chroma is None:
            return pseudo_divide(v, self.luma_gram.to(v), lam)
        c = self.luma_blocks
        mean = F.avg_pool2d(luma, self.cell)
        vectors = self.vectors.to(v)
        together = _mix(vectors.mT, torch.cat([c**0.5 * mean, chroma], 1))
        together = _mix(vectors, pseudo_divide(together, self.gram.to(v).reshape(-1, 1, 1), lam))
        rest = pseudo_divide(luma - _repeat(mean, self.cell), self.luma_gram.to(v), lam)
        return self._coefficients(rest + _repeat(together[:, :1], self.cell) / c**0.5, together[:, 1:])

    def _coefficients(self, luma: Tensor, chroma: Tensor | None) -> Tensor:
        """Return the coefficients of whole planes, in the layout of ``y``."""
        blocks = [_split(luma, self.cell), *([] if chroma is None else [_split(chroma, (1, 1))])]
        together = torch.cat(blocks, 1) if len(blocks) > 1 else blocks[0]
        return (self.transform.to(together) @ together).reshape(-1, *self.out_shape)

    def _planes(self, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the planes with the coefficients ``y``: the inverse of ``_coefficients``."""
        _, rows, columns = self.out_shape
        blocks = self.transform.to(y).mT @ y.reshape(len(y), -1, SIDE**2, rows * columns)
        luma = _join(blocks[:, : self.luma_blocks], self.cell, rows, columns)
        return luma, None if len(self.mix) == 1 else _join(blocks[:, self.luma_blocks :], (1, 1), rows, columns)

    def _measured(self) -> Tensor:
        """Return the mask of the measured entries of ``y``: all chroma blocks, and the luma blocks that overlap the image."""
        channels, height, width = self.in_shape
        (v, h), (_, rows, columns) = self.cell, self.out_shape
        # The row and the column of every block of luma, (v, h, rows, columns).
        row = (torch.arange(v).reshape(v, 1) + v * torch.arange(rows)).reshape(v, 1, rows, 1)
        column = (torch.arange(h).reshape(h, 1) + h * torch.arange(columns)).reshape(1, h, 1, columns)
        luma = ((SIDE * row < height) & (SIDE * column < width)).reshape(-1, rows, columns)
        blocks = torch.cat([luma, torch.ones(channels - 1, rows, columns, dtype=torch.bool)])
        return blocks.repeat_interleave(SIDE**2, 0)


def _luma_and_chroma() -> Tensor:
    """Return M: the chroma are the differences of blue and red from luma, scaled to the range of luma."""
    luma = torch.tensor(GRAY_WEIGHTS, dtype=torch.float64)
    red, _, blue = torch.eye(3, dtype=torch.float64)
    return torch.stack([luma, (blue - luma) / (2 * (1 - luma[2])), (red - luma) / (2 * (1 - luma[0]))])


def _mix(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiply the channels of every pixel of ``(B, C, H, W)`` by a matrix."""
    return x if matrix.shape == (1, 1) else (matrix.to(x) @ x.flatten(2)).reshape(x.shape)


def _split(planes: Tensor, cell: tuple[int, int]) -> Tensor:
    """Return planes ``(B, P, H, W)`` as blocks ``(B, P * blocks of a cell, 64, cells)``."""
    v, h = cell
    batch, count, height, width = planes.shape
    parts = planes.reshape(batch, count, height // (SIDE * v), v, SIDE, width // (SIDE * h), h, SIDE)
    return parts.permute(0, 1, 3, 6, 4, 7, 2, 5).reshape(batch, count * v * h, SIDE**2, -1)


def _join(blocks: Tensor, cell: tuple[int, int], rows: int, columns: int) -> Tensor:
    """Return the planes from their blocks: the inverse of ``_split``."""
    v, h = cell
    parts = blocks.reshape(len(blocks), -1, v, h, SIDE, SIDE, rows, columns)
    return parts.permute(0, 1, 6, 2, 4, 7, 3, 5).reshape(len(blocks), -1, SIDE * v * rows, SIDE * h * columns)


def _repeat(planes: Tensor, cell: tuple[int, int]) -> Tensor:
    v, h = cell
    return planes.repeat_interleave(v, -2).repeat_interleave(h, -1)


def _extend(planes: Tensor, height: int, width: int) -> Tensor:
    """Pad planes with their last column, then with their last row."""
    missing = width - planes.shape[-1]
    planes = torch.cat([planes, planes[..., -1:].expand(*planes.shape[:-1], missing)], -1) if missing else planes
    missing = height - planes.shape[-2]
    return torch.cat([planes, planes[..., -1:, :].expand(*planes.shape[:-2], missing, width)], -2) if missing else planes


def _fold(planes: Tensor, height: int, width: int) -> Tensor:
    """Apply the adjoint of ``_extend``."""
    if planes.shape[-2] > height:
        planes = torch.cat([planes[..., : height - 1, :], planes[..., height - 1 :, :].sum(-2, keepdim=True)], -2)
    if planes.shape[-1] > width:
        planes = torch.cat([planes[..., : width - 1], planes[..., width - 1 :].sum(-1, keepdim=True)], -1)
    return planes
