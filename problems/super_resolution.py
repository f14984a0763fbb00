"""Super-resolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor

from invdiff.operators import Downsample, Noise, Operator
from invdiff.priors import ScoreModel

from .options import Option
from .problem import Problem

__all__ = ["SuperResolution"]

STRONG = 4  # factor from which details are invented rather than restored


class SuperResolution(Problem):
    """Enlarge an image that was downsampled by a known factor.

    Args:
        factor: Downsampling factor, an integer of at least 2.
        kernel: Downsampling kernel: ``bicubic`` (antialiased, as in Pillow) or ``area`` (mean over blocks).
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
        Option(name="downsampling", kind=("bicubic", "area"), default="bicubic", help="Downsampling kernel."),
    )
    needs = "--factor, the downsampling factor of INPUT"
    measures = "Downsample"
    misfit_causes = "another --downsampling, or INPUT was sharpened or compressed after it"
    why_cropped = "a multiple of the factor"

    def __init__(self, factor: int, *, kernel: str = "bicubic") -> None:
        if factor < 2:
            raise ValueError(f"SuperResolution: factor must be an integer of at least 2, got {factor}.")
        self.factor, self.kernel, self.enlarges = factor, kernel, factor

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

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        return Downsample(shape, self.factor, kernel=self.kernel, noise=noise)

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
