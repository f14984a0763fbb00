"""Colorization of a grayscale picture."""

from __future__ import annotations

from torch import Tensor

from invdiff.io.images import Picture
from invdiff.operators import ChannelMix, Noise, Operator
from invdiff.priors import ScoreModel

from .gray import in_luma
from .problem import Problem

__all__ = ["Colorize"]


class Colorize(Problem):
    """Find colors whose luma (ITU-R BT.601) equals a grayscale picture."""

    name = "colorize"
    needs = "a grayscale or toned INPUT and nothing else"
    exact_is_usual = True
    measures = "ChannelMix"
    misfit_causes = "a grayscale INPUT that is not the luma of its colors"

    @classmethod
    def as_measured(cls, picture: Picture) -> Picture:
        return in_luma(picture)

    def doubts(self, score: ScoreModel) -> tuple[str, ...]:
        return (
            "colors: brightness does not determine them; they are guesses of the prior, and the samples show how they differ",
        )

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        return ChannelMix.gray(shape, noise=noise)

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        channels, height, width = measured
        if channels != 1:
            raise ValueError(
                f"Colorize: the picture has {channels} channels, expected a grayscale one, equal channels, or colors of one "
                "tone as of sepia. Convert it to grayscale first, or add --simulate to have that done."
            )
        return 3, height, width

    def fit(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3:
            raise ValueError(f"Colorize: the clean picture has {x.shape[1]} channels, expected 3 (RGB).")
        return x

    def preview(self, y: Tensor) -> Tensor:
        return y.expand(-1, 3, -1, -1)

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        if op.sigma_y > 0:
            return x
        grey = ChannelMix.gray(x.shape[1:])
        return x + grey.pinv(y - grey(x))
