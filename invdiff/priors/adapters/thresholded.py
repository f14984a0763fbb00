"""Thresholding of the denoised image, as samplers for strong guidance do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invdiff.linalg import over_items
from invdiff.priors.score_model import ScoreModel

__all__ = ["Thresholded"]


class Thresholded(ScoreModel):
    r"""A prior whose denoised images are kept in [-1, 1].

    Static thresholding clips them. Dynamic thresholding takes the quantile :math:`s` of :math:`|\hat x_0|` over an item, or 1
    if that is larger, clips to :math:`[-s, s]` and divides by :math:`s`. Both keep strong guidance from saturating the colors
    over the steps. The result is the denoiser of no density, and clipped values have no gradient: without strong guidance leave
    it out.

    Args:
        score: A prior of images that span [-1, 1].
        quantile: Share of the entries that set :math:`s`, below 1; Imagen has 0.995. ``None``: static thresholding.

    Raises:
        ValueError: If ``quantile`` is not between 0 and 1.

    References:
        Saharia et al., Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding, 2022,
        https://arxiv.org/abs/2205.11487, section 2.3
    """

    def __init__(self, score: ScoreModel, quantile: float | None = None) -> None:
        if quantile is not None and not 0 < quantile < 1:
            raise ValueError(f"Thresholded: quantile must be between 0 and 1, got {quantile}.")
        self.score_model, self.quantile = score, quantile
        self.schedule, self.event_shape, self.notes = score.schedule, score.event_shape, score.notes
        self.batched, self.learned, self.scale = score.batched, score.learned, score.scale
        self.windowed = score.windowed
        self.reach = score.reach if quantile is None else None  # The quantile depends on the whole image.

    def _summary(self) -> Sequence[str]:
        return (repr(self.score_model), "static" if self.quantile is None else f"quantile {self.quantile:g}")

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        x0_hat = self.score_model.denoise(x_t, t)
        if self.quantile is None:
            return x0_hat.clamp(-1, 1)
        sizes = x0_hat.detach().abs().flatten(1)
        rank = max(1, round(self.quantile * sizes.shape[1]))
        s = over_items(sizes.kthvalue(rank, dim=1).values.clamp(min=1), x0_hat)
        return x0_hat.minimum(s).maximum(-s) / s

    def to(self, device: torch.device | str | None = None) -> Thresholded:
        return Thresholded(self.score_model.to(device), self.quantile)

    def describe(self) -> dict[str, Any]:
        return self.score_model.describe() | {"threshold": "static" if self.quantile is None else self.quantile}
