"""Taking the artefacts of JPEG compression away."""

from __future__ import annotations

from typing import Self

from invdiff.operators import JPEG, Operator

from .base import Problem, photographs

__all__ = ["DeJPEG"]


class DeJPEG(Problem):
    """Recover what JPEG compression of a known quality took.

    The measurement is modelled with softened rounding, off by a standard deviation of 0.03 from a real file of quality 10, and
    of 0.011 at quality 75, in the units of [-1, 1] images: take no smaller noise for one.

    Args:
        quality: 1 to 100, as libjpeg counts.

    Raises:
        ValueError: If the quality is out of range.
    """

    name = "dejpeg"
    summary = "undo JPEG compression"
    needs = ("--quality",)
    recommended = photographs(max_iterations=4)

    def __init__(self, quality: int) -> None:
        if not 1 <= quality <= 100:
            raise ValueError(f"DeJPEG: quality must lie between 1 and 100, got {quality}.")
        self.quality = quality

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(10), cls(75)]

    def operator(self, shape: tuple[int, int, int], *, sigma_y: float) -> Operator:
        return JPEG(shape, self.quality, sigma_y=sigma_y)
