"""A prior of latent codes with the decoder that makes images of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from invdiff.noise_covariance import NoiseCovariance
from invdiff.priors.score_model import ScoreModel

__all__ = ["LatentPrior"]


class LatentPrior(ScoreModel):
    r"""A prior of images :math:`x = D(z)`, given by a prior of latent codes :math:`z` and a decoder.

    Operators act on images, and the samples of :class:`~invdiff.PosteriorSampler` are images (``post.latents`` has their
    codes): the state of the run is the latent code, and the measurement :math:`y = A(D(z)) + n` is nonlinear. So methods for
    nonlinear operators apply, and only they.

    The posterior is that of :math:`z`: an image that no code decodes to has no density. The decoder should compute in float32.

    Args:
        score: The prior of :math:`z`.
        decode: :math:`D`: takes ``(B, *latent_shape)`` and returns images ``(B, C, H, W)`` that span [-1, 1]; differentiable.
        encode: :math:`E`, from images to codes, for the methods that need it (``psld``).
        latent_shape: Shape of one code. Default: that of ``score``.
        rows: Images that are decoded at a time where no gradient is followed. Default: all.

    Raises:
        TypeError: If ``decode`` or ``encode`` cannot be called.
        ValueError: If the shape of the codes is not determined.
    """

    latent = True

    def __init__(
        self,
        score: ScoreModel,
        decode: Callable[[Tensor], Tensor],
        *,
        encode: Callable[[Tensor], Tensor] | None = None,
        latent_shape: Sequence[int] | None = None,
        rows: int | None = None,
    ) -> None:
        if not callable(decode) or not (encode is None or callable(encode)):
            raise TypeError("LatentPrior: decode and encode must be functions, from codes to images and from images to codes.")
        shape = score.event_shape if latent_shape is None else tuple(latent_shape)
        if shape is None or any(side is None for side in shape):
            raise ValueError(f"LatentPrior: the prior takes codes of shape {shape}: give the size of yours as latent_shape=...")
        self.score_model, self.decode, self.encode, self.rows = score, decode, encode, rows
        self.schedule, self.event_shape, self.notes = score.schedule, shape, score.notes
        self.noise_kinds, self.batched, self.scale = score.noise_kinds, score.batched, score.scale
        self.learned = score.learned

    def _summary(self) -> Sequence[str]:
        return (repr(self.score_model),)

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.score_model.denoise(x_t, t)

    def denoise_pivot(self, mu: Tensor, cov: NoiseCovariance) -> Tensor:
        return self.score_model.denoise_pivot(mu, cov)

    def to(self, device: torch.device | str | None = None) -> LatentPrior:
        score = self.score_model.to(device)
        if score is self.score_model:
            return self
        return LatentPrior(score, self.decode, encode=self.encode, latent_shape=self._shape, rows=self.rows)

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(int(side or 0) for side in self.event_shape or ())

    def describe(self) -> dict[str, Any]:
        return self.score_model.describe() | {"latent": list(self._shape)}
