"""Super-resolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from invdiff.operators import Downsample, Noise, Operator, SubsampledConvolution

from .options import Option
from .problem import Problem, photographs
from .unknown_kernels import unknown_kernels

if TYPE_CHECKING:
    from invdiff.blind import FreeFamily
    from invdiff.blind.families import ParametricFamily

__all__ = ["SuperResolution"]


class SuperResolution(Problem):
    """Enlarge an image that was downsampled by a known factor.

    Args:
        factor: Downsampling factor, an integer of at least 2.
        kernel: Downsampling kernel: ``bicubic`` (antialiased, as in Pillow), ``area`` (mean over blocks), a kernel ``(h, w)``
            in pixels of the image, of whose blur every ``factor``-th pixel is kept, or ``unknown``: a Gaussian whose width is
            estimated.
    """

    name = "sr"
    options = (
        Option(
            name="factor",
            kind="INTEGER",
            minimum=2,
            needed="yes",
            help="Downsampling factor: how many times smaller INPUT is than the image.",
            help_simulated="Downsampling factor: how many times smaller the measured image is.",
        ),
        Option(
            name="downsampling",
            kind=("bicubic", "area", "unknown"),
            default="bicubic",
            help="Downsampling kernel; unknown: a Gaussian whose width is estimated from INPUT.",
        ),
    )
    needs = "--factor, the downsampling factor of INPUT"
    measures = "Downsample"
    why_cropped = "a multiple of the factor"
    recommended = photographs(max_iterations=4)

    def __init__(self, factor: int, *, kernel: str | Tensor = "bicubic") -> None:
        if factor < 2:
            raise ValueError(f"SuperResolution: factor must be an integer of at least 2, got {factor}.")
        self.factor, self.kernel, self.enlarges = factor, kernel, factor

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        return cls(options["factor"], kernel=options["downsampling"])

    @classmethod
    def is_blind(cls, options: Mapping[str, Any]) -> bool:
        return bool(options["downsampling"] == "unknown")

    def kernels(self, size: tuple[int, int]) -> FreeFamily | ParametricFamily | None:
        unknown = isinstance(self.kernel, str) and self.kernel == "unknown"
        return unknown_kernels("gaussian", size, factor=self.factor) if unknown else None

    def with_kernel(self, kernel: Tensor) -> Problem:
        return SuperResolution(self.factor, kernel=kernel)

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        if isinstance(self.kernel, Tensor):
            offset = (self.factor - 1) // 2
            return SubsampledConvolution(
                shape, self.kernel, stride=self.factor, offset=offset, boundary=self.boundary, noise=noise
            )
        return Downsample(shape, self.factor, kernel="area" if self.kernel == "unknown" else self.kernel, noise=noise)

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        channels, height, width = measured
        return channels, height * self.factor, width * self.factor

    def fit(self, x: Tensor) -> Tensor:
        height, width = (side - side % self.factor for side in x.shape[-2:])
        if not height or not width:
            raise ValueError(
                f"SuperResolution: an image of {x.shape[-1]} x {x.shape[-2]} cannot be downsampled by {self.factor}."
            )
        return x[..., :height, :width]

    def preview(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)
