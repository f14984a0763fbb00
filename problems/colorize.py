"""Colorization of a grayscale picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from invdiff.io.images import Picture
from invdiff.operators import ChannelMix, Noise, Operator

from .problem import Problem, photographs

__all__ = ["Colorize"]


EQUAL = 1.01 / 127.5  # one level of 8 bits: equal channels of JPEG files and color-managed ones may differ by it


class Colorize(Problem):
    """Find colors whose luma (ITU-R BT.601) equals a grayscale picture."""

    name = "colorize"
    needs = "a grayscale INPUT and nothing else"
    measures = "ChannelMix"
    recommended = photographs(max_iterations=4)

    @classmethod
    def as_measured(cls, picture: Picture, notes: list[str]) -> Picture:
        """Return one channel of a picture saved as RGB whose channels are equal, but for the rounding of 8-bit files."""
        pixels = picture.pixels
        if len(pixels) != 3 or np.ptp(pixels, axis=0).max() > EQUAL:
            return picture
        notes.append("the channels of INPUT are equal: it is taken as a grayscale picture")
        return replace(picture, pixels=pixels.mean(0, keepdims=True))

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        return ChannelMix.gray(shape, noise=noise)

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        channels, height, width = measured
        if channels != 1:
            raise ValueError(
                f"Colorize: the picture has {channels} channels{' that differ' * (channels == 3)}, expected a grayscale one. "
                "Convert it to grayscale first, or add --simulate to have it done."
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
