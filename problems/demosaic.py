"""All colors of every pixel, from one behind a color filter each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.operators import Mosaic, Noise, Operator
from invdiff.operators.sampling.mosaic import BAYER_PATTERNS

from .options import Option
from .problem import Problem, photographs

__all__ = ["Demosaic"]


class Demosaic(Problem):
    """Find the two colors that every pixel behind a Bayer filter lacks.

    Args:
        pattern: ``RGGB``, ``BGGR``, ``GRBG`` or ``GBRG``: the colors of the top left 2 x 2 pixels, row by row.

    Raises:
        ValueError: If the pattern is none of these.
    """

    name = "demosaic"
    options = (
        Option(
            name="pattern",
            kind=("RGGB", "BGGR", "GRBG", "GBRG"),
            needed="yes",
            help="Colors of the top left 2 x 2 pixels, row by row.",
        ),
    )
    needs = "--pattern, the colors of the top left 2 x 2 pixels"
    measures = "Mosaic"
    recommended = photographs(max_iterations=4)

    def __init__(self, pattern: str) -> None:
        if pattern not in BAYER_PATTERNS:
            raise ValueError(f"Demosaic: unknown pattern {pattern!r}, expected one of {', '.join(BAYER_PATTERNS)}.")
        self.pattern = pattern

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        return Mosaic(shape, self.pattern, noise=noise)

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        channels, height, width = measured
        if channels != 1:
            raise ValueError(f"Demosaic: the mosaic has {channels} channels, expected one: a raw value for every pixel.")
        return 3, height, width

    def fit(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3:
            raise ValueError(f"Demosaic: the clean picture has {x.shape[1]} channels, expected red, green and blue.")
        return x

    def noise_pixels(self, y: Tensor) -> Tensor:
        """Return the mosaic with its four colors as channels: neighbors of one color are two pixels apart."""
        height, width = (side // 2 * 2 for side in y.shape[2:])
        return F.pixel_unshuffle(y[..., :height, :width], 2)

    def preview(self, y: Tensor) -> Tensor:
        """Return every value in its own color, the two others black."""
        return Mosaic((3, y.shape[-2], y.shape[-1]), self.pattern).adjoint(y + 1) - 1

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        if op.sigma_y > 0:
            return x
        mosaic = Mosaic((3, x.shape[-2], x.shape[-1]), self.pattern)
        return torch.where(mosaic.mask.to(x.device).bool(), y, x)
