"""Enlarging."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from invdiff.operators import Downsample, Operator

from .problem import Problem, photographs

__all__ = ["SuperResolution"]


class SuperResolution(Problem):
    """Enlarge an image that was scaled down by a known factor.

    Args:
        factor: Whole number, at least 2.
        kernel: How it was scaled down: ``bicubic`` (antialiased, as Pillow does) or ``area`` (mean over blocks).
    """

    name = "sr"
    summary = "enlarge an image that was scaled down"
    needs = ("--factor",)
    recommended = photographs(max_iterations=4)

    def __init__(self, factor: int, *, kernel: str = "bicubic") -> None:
        if factor < 2:
            raise ValueError(f"SuperResolution: factor must be a whole number of at least 2, got {factor}.")
        self.factor, self.kernel = factor, kernel

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(2), cls(4, kernel="area")]

    def operator(self, shape: tuple[int, int, int], *, sigma_y: float) -> Operator:
        return Downsample(shape, self.factor, kernel=self.kernel, sigma_y=sigma_y)

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        channels, height, width = measured
        return channels, height * self.factor, width * self.factor

    def fit(self, x: Tensor) -> Tensor:
        height, width = (side - side % self.factor for side in x.shape[-2:])
        if not height or not width:
            raise ValueError(
                f"SuperResolution: an image of {x.shape[-1]} x {x.shape[-2]} cannot be scaled down by {self.factor}."
            )
        return x[..., :height, :width]

    def preview(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)
