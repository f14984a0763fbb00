"""Demosaicing of raw images taken through a Bayer filter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.io.images import Picture
from invdiff.operators import Mosaic, Noise, Operator
from invdiff.operators.sampling.mosaic import BAYER_PATTERNS

from .gray import in_gray
from .options import Option
from .problem import Problem

__all__ = ["Demosaic"]


class Demosaic(Problem):
    """Reconstruct the two missing color values at every pixel behind a Bayer filter.

    Args:
        pattern: Colors of the top left 2 x 2 pixels, row by row: ``RGGB``, ``BGGR``, ``GRBG`` or ``GBRG``.

    Raises:
        ValueError: If the pattern is not one of these.
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
    default_noise = "file"
    measures = "Mosaic"
    misfit_causes = "a wrong --pattern"

    def __init__(self, pattern: str) -> None:
        if pattern not in BAYER_PATTERNS:
            raise ValueError(f"Demosaic: unknown pattern {pattern!r}, expected one of {', '.join(BAYER_PATTERNS)}.")
        self.pattern = pattern

    @classmethod
    def as_measured(cls, picture: Picture) -> Picture:
        return in_gray(picture)

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        return Mosaic(shape, self.pattern, noise=noise)

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        channels, height, width = measured
        if channels != 1:
            raise ValueError(f"Demosaic: the mosaic has {channels} channels, expected one, with a raw value for every pixel.")
        return 3, height, width

    def fit(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3:
            raise ValueError(f"Demosaic: the clean picture has {x.shape[1]} channels, expected 3 (RGB).")
        return x

    def noise_pixels(self, y: Tensor) -> Tensor:
        """Return the 2 x 2 positions of the mosaic as four channels, since neighbors of one color are two pixels apart."""
        height, width = (side // 2 * 2 for side in y.shape[2:])
        return F.pixel_unshuffle(y[..., :height, :width], 2)

    def preview(self, y: Tensor) -> Tensor:
        """Return an RGB picture in which each pixel has its measured color and zero in the two others (black)."""
        return Mosaic((3, y.shape[-2], y.shape[-1]), self.pattern).adjoint(y + 1) - 1

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        if op.sigma_y > 0:
            return x
        mosaic = Mosaic((3, x.shape[-2], x.shape[-1]), self.pattern)
        return torch.where(mosaic.mask.to(x.device).bool(), y, x)
