"""Super-resolution."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from invdiff.operators import Downsample, Noise, Operator, Resize, SubsampledConvolution
from invdiff.priors import ScoreModel

from .options import Option
from .problem import Problem, nearest
from .unknown_kernels import unknown_kernels

if TYPE_CHECKING:
    from invdiff.blind import FreeFamily
    from invdiff.blind.families import ParametricFamily

__all__ = ["SuperResolution"]

LARGEST = 10**6  # factor: no image has as many pixels a side
STRONG = 4  # factor from which details are invented rather than restored


class SuperResolution(Problem):
    """Enlarge an image that was downsampled by a known factor.

    A side of ``n`` measured pixels is one of ``round(factor * n)`` pixels of the image, half a pixel rounded up: 1.5 enlarges
    101 pixels to 152. Where this is not ``factor * n``, the ratio of the sides is used.

    Args:
        factor: Downsampling factor, above 1.
        kernel: Downsampling kernel: ``bicubic`` (antialiased, as in Pillow), ``area`` (mean over the area of a pixel), or, for
            an integer factor, a kernel ``(h, w)`` in pixels of the image, of whose blur every ``factor``-th pixel is kept, or
            ``unknown``: a Gaussian whose width is estimated.
    """

    name = "sr"
    options = (
        Option(
            name="factor",
            kind="NUMBER",
            minimum=1,
            maximum=LARGEST,
            above=True,
            needed="yes",
            help="Downsampling factor: how many times smaller INPUT is than the image, such as 2 or 1.5.",
            help_simulated="Downsampling factor: how many times smaller the measured image is, such as 2 or 1.5.",
        ),
        Option(
            name="downsampling",
            kind=("bicubic", "area", "unknown"),
            default="bicubic",
            help="Downsampling kernel; unknown: a Gaussian whose width is estimated from INPUT.",
        ),
    )
    needs = "--factor, the downsampling factor of INPUT"
    default_noise = "file"
    measures = "Downsample"
    misfit_causes = "another --downsampling, or INPUT was sharpened or compressed after it"
    why_cropped = "a multiple of the factor"

    def __init__(self, factor: float, *, kernel: str | Tensor = "bicubic") -> None:
        if not 1 < factor <= LARGEST:
            raise ValueError(f"SuperResolution: factor must be a number above 1 and at most {LARGEST}, got {factor}.")
        self.factor = int(factor) if factor == int(factor) else factor
        self.kernel, self.enlarges = kernel, self.factor
        if not isinstance(self.factor, int) and (isinstance(kernel, Tensor) or kernel == "unknown"):
            raise ValueError(f"SuperResolution: a blur of its own needs a whole factor, got {factor}. Choose 2, 3, ...")

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        return cls(options["factor"], kernel=options["downsampling"])

    def doubts(self, score: ScoreModel) -> tuple[str, ...]:
        if self.factor < STRONG:
            return ()
        return (
            f"factor {self.factor}: {1 - 1 / self.factor**2:.0%} of the values are invented; texture and letters are plausible "
            "at best, and the samples show how they differ",
        )

    @classmethod
    def is_blind(cls, options: Mapping[str, Any]) -> bool:
        return bool(options["downsampling"] == "unknown")

    def kernels(self, size: tuple[int, int]) -> FreeFamily | ParametricFamily | None:
        unknown = isinstance(self.kernel, str) and self.kernel == "unknown"
        return unknown_kernels("gaussian", size, factor=int(self.factor)) if unknown else None

    def with_kernel(self, kernel: Tensor) -> Problem:
        return SuperResolution(self.factor, kernel=kernel)

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        if isinstance(self.kernel, Tensor):
            stride, offset = int(self.factor), (int(self.factor) - 1) // 2
            return SubsampledConvolution(shape, self.kernel, stride=stride, offset=offset, boundary=self.boundary, noise=noise)
        kernel = "area" if self.kernel == "unknown" else self.kernel
        if isinstance(self.factor, int):
            return Downsample(shape, self.factor, kernel=kernel, noise=noise)
        height, width = (round(side / self.factor) for side in shape[1:])
        if (self._enlarged(height), self._enlarged(width)) != tuple(shape[1:]):
            raise ValueError(
                f"SuperResolution: no picture of whole pixels becomes {shape[2]} x {shape[1]} when enlarged by {self.factor}."
            )
        return Resize(shape, (height, width), kernel=kernel, noise=noise)

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        channels, height, width = measured
        return channels, self._enlarged(height), self._enlarged(width)

    def fit(self, x: Tensor) -> Tensor:
        height, width = (self._enlarged(math.floor(side / self.factor)) for side in x.shape[-2:])
        if not height or not width:
            raise ValueError(
                f"SuperResolution: an image of {x.shape[-1]} x {x.shape[-2]} cannot be downsampled by {self.factor}."
            )
        return x[..., :height, :width]

    def preview(self, y: Tensor) -> Tensor:
        rows, columns = (nearest(self._enlarged(side), side) for side in y.shape[-2:])
        return y[..., rows, :][..., columns]

    def _enlarged(self, side: int) -> int:
        return math.floor(self.factor * side + 0.5)
