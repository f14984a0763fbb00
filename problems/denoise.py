"""Denoising."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from invdiff.io.images import Picture
from invdiff.operators import Identity, Mask, Noise, Operator

from .problem import Given, Problem, pixels_of

__all__ = ["Denoise"]


class Denoise(Problem):
    """Remove noise of a known distribution, such as Gaussian noise with a known standard deviation.

    Args:
        visible: Boolean ``(H, W)``, true where a pixel is measured. Default: everywhere.
    """

    name = "denoise"
    needs = "--noise above 0; for a measured INPUT it can be left out, and is then found in INPUT"
    accepts_noise = "above 0"
    default_noise = "file"
    reads_alpha = True
    measures = "Identity"
    misfit_causes = "noise of another distribution"

    def __init__(self, visible: Tensor | None = None) -> None:
        self.visible = visible

    @classmethod
    def of_picture(cls, picture: Picture, options: Mapping[str, Any], *, source: str) -> Given:
        if picture.alpha is None or picture.alpha.all():
            return Given(cls(), pixels_of(picture), picture)
        visible = torch.from_numpy(picture.alpha > 0)
        if not visible.any():
            raise ValueError(f"{source}: all pixels are transparent (alpha 0), so that none shows a color.")
        note = f"{1 - visible.double().mean():.1%} of the pixels are transparent (alpha 0) and count as not measured"
        return Given(cls(visible), pixels_of(picture), picture, (note,))

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        return Identity(shape, noise=noise) if self.visible is None else Mask(self.visible, shape, noise=noise)

    def noise_pixels(self, y: Tensor) -> Tensor:
        return y if self.visible is None else torch.where(self.visible, y, torch.nan)
