"""The operator of a blur, with decimation or without."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from invdiff.operators import Blur, LinearOperator, SubsampledConvolution

__all__ = ["BOUNDARIES", "DECIMATED_BOUNDARIES", "blur_operator", "center_of"]

BOUNDARIES = ("circular", "valid", "reflect")
DECIMATED_BOUNDARIES = ("circular", "reflect")


def blur_operator(
    in_shape: Sequence[int], kernel: Tensor, *, boundary: str, factor: int = 1, sigma_y: float = 0.0
) -> LinearOperator:
    """Return the blur with ``kernel``, of which every ``factor``-th pixel is kept.

    With decimation, the value that is kept of a block of ``factor`` pixels is the one at ``(factor - 1) // 2``. For an even
    factor the middle of the block is half a pixel further, and kernels are centered accordingly: see :func:`center_of`.
    """
    if factor == 1:
        return Blur(in_shape, kernel, boundary=boundary, sigma_y=sigma_y)
    offset = (factor - 1) // 2
    return SubsampledConvolution(in_shape, kernel, stride=factor, offset=offset, boundary=boundary, sigma_y=sigma_y)


def center_of(factor: int) -> float:
    """Return where the center of a kernel must lie, in pixels from its middle pixel, to show the middles of blocks.

    0, or -0.5 for even factors: a convolution reads the pixel half a pixel further through the entry half a pixel before.
    """
    return 0.0 if factor % 2 else -0.5
