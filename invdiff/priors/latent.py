"""A prior of latent codes with the decoder that makes images of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.noise_covariance import NoiseCovariance
from invdiff.priors.adapters.tiled import WINDOW_NUMBERS, Tiled
from invdiff.priors.network import frozen_view
from invdiff.priors.score_model import ScoreModel

__all__ = ["LatentPrior"]

Map = Callable[[Tensor], Tensor]


class LatentPrior(ScoreModel):
    r"""A prior of images :math:`x = D(z)`, given by a prior of latent codes :math:`z` and a decoder.

    Operators act on images, and the samples of :class:`~invdiff.PosteriorSampler` are images (``post.latents`` has their
    codes): the state of the run is the latent code, and the measurement :math:`y = A(D(z)) + n` is nonlinear. So the methods
    for nonlinear operators apply, and those that know of the decoder: ``psld``, ``resample``, ``latino`` and, for masks,
    ``ding``. Pixels that the measurement gives exactly are put back after decoding.

    The posterior is that of :math:`z`: an image that no code decodes to has no density. The decoder should compute in float32.

    Args:
        score: The prior of :math:`z`.
        decode: :math:`D`: takes ``(B, *latent_shape)`` and returns images ``(B, C, H, W)`` that span [-1, 1]; differentiable. A
            module is copied, like the network of :func:`~invdiff.priors.from_network`, and follows the device.
        encode: :math:`E`, from images to codes, deterministic, for the four methods that know of the decoder; ``psld``
            differentiates it.
        latent_shape: Shape of one code. Default: that of ``score``.
        rows: Images that are decoded at a time where no gradient is followed. Default: all.
        factor: Pixels of the image per number of the code along each side, for decoders that take codes of any size: images of
            another size than that of ``latent_shape`` are then decoded from larger or smaller codes, which are denoised through
            windows of ``latent_shape`` (:class:`~invdiff.priors.Tiled`). Default: one size only.
        channels: Channels of the images, where there is a ``factor``.
        checked: Whether the decoder is known to be differentiable and to take each item for itself, so that it is not tried.

    Raises:
        TypeError: If ``decode`` or ``encode`` cannot be called.
        ValueError: If the shape of the codes is not determined.
    """

    latent = True

    def __init__(
        self,
        score: ScoreModel,
        decode: Map,
        *,
        encode: Map | None = None,
        latent_shape: Sequence[int] | None = None,
        rows: int | None = None,
        factor: int | None = None,
        channels: int = 3,
        checked: bool = False,
    ) -> None:
        if not callable(decode) or not (encode is None or callable(encode)):
            raise TypeError("LatentPrior: decode and encode must be functions, from codes to images and from images to codes.")
        if factor is not None and factor < 1:
            raise ValueError(f"LatentPrior: factor must be a whole number of at least 1, got {factor}.")
        shape = score.event_shape if latent_shape is None else tuple(latent_shape)
        if shape is None or any(side is None for side in shape):
            raise ValueError(f"LatentPrior: the prior takes codes of shape {shape}: give the size of yours as latent_shape=...")
        self.decoder: Map = frozen_view(decode) if isinstance(decode, nn.Module) else decode
        self.encoder: Map | None = frozen_view(encode) if isinstance(encode, nn.Module) else encode
        self.score_model, self.rows, self.factor, self.channels, self.checked = score, rows, factor, channels, checked
        self.sides: tuple[int, int] | None = None  # of the images, where they are cut out of what is decoded
        self.schedule, self.event_shape, self.notes = score.schedule, shape, score.notes
        self.noise_kinds, self.batched, self.scale = score.noise_kinds, score.batched, score.scale
        self.learned = score.learned

    def _summary(self) -> Sequence[str]:
        return (repr(self.score_model),)

    def denoise(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.score_model.denoise(x_t, t)

    def denoise_pivot(self, mu: Tensor, cov: NoiseCovariance) -> Tensor:
        return self.score_model.denoise_pivot(mu, cov)

    def decode(self, z: Tensor) -> Tensor:
        """Return the images of codes ``(B, *latent_shape)``."""
        image = self.decoder(z)
        return image if self.sides is None else image[..., : self.sides[0], : self.sides[1]]

    @property
    def encode(self) -> Map | None:
        """The encoder, from images to codes; ``None``: there is none."""
        return None if self.encoder is None else self._encode

    def _encode(self, x: Tensor) -> Tensor:
        assert self.encoder is not None
        if self.sides is not None and self.factor is not None:
            x = F.pad(x, [part for side in reversed(x.shape[-2:]) for part in (0, -side % self.factor)], mode="replicate")
        return self.encoder(x)

    @property
    def image_shape(self) -> tuple[int | None, ...] | None:
        return None if self.factor is None else (self.channels, None, None)

    def for_images(self, shape: Sequence[int]) -> LatentPrior:
        """Return the prior for images of ``shape``, ``(C, H, W)``; without a ``factor``, the same prior.

        Codes have the sides of the image over ``factor``, rounded up; the decoded image is cut to its size.

        Raises:
            ValueError: If the images have another number of channels.
        """
        if self.factor is None:
            return self
        if len(shape) != 3 or shape[0] != self.channels:
            raise ValueError(
                f"The decoder of the prior makes images of {self.channels} channels and any size, and the operator measures "
                f"items of shape {tuple(shape)}. Give it one for {self.channels} channels; a gray measurement is the mean of "
                "the channels."
            )
        code = (self._shape[0], *(math.ceil(side / self.factor) for side in shape[1:]))
        score, notes = self.score_model, self.notes
        if any(own not in (None, side) for own, side in zip(score.event_shape or (), code, strict=False)):
            score = tiled = Tiled(score, batch=self._windows_at_a_time())
            height, width = (self.factor * side for side in tiled.tile)
            count = tiled.windows(code[1], code[2])
            sizes = f"the prior is for images of {width} x {height} pixels: {shape[2]} x {shape[1]}"
            notes = (*notes, f"{sizes} is denoised through {count} window{'s' * (count > 1)} of codes")
        sized = self._with(score, self.decoder, self.encoder, code)
        sized.notes, sized.sides = notes, (int(shape[1]), int(shape[2]))
        return sized

    def _windows_at_a_time(self) -> int:
        """Return how many windows of codes are denoised at a time: a network of codes is as large as one of their images."""
        device = "cpu" if self.device is None else self.device.type
        entries = math.prod(self._shape) * (self.factor or 1) ** 2
        return max(1, WINDOW_NUMBERS.get(device, WINDOW_NUMBERS["cpu"]) // entries)

    @property
    def device(self) -> torch.device | None:
        """Where the decoder is, if it is a module."""
        return next((part.device for part in _tensors(self.decoder)), None)

    def _with(self, score: ScoreModel, decoder: Map, encoder: Map | None, shape: Sequence[int]) -> LatentPrior:
        return LatentPrior(
            score,
            decoder,
            encode=encoder,
            latent_shape=shape,
            rows=self.rows,
            factor=self.factor,
            channels=self.channels,
            checked=self.checked,
        )

    def to(self, device: torch.device | str | None = None) -> LatentPrior:
        score, decoder, encoder = self.score_model.to(device), _moved(self.decoder, device), _moved(self.encoder, device)
        if (score, decoder, encoder) == (self.score_model, self.decoder, self.encoder):
            return self
        moved = self._with(score, decoder, encoder, self._shape)
        moved.sides, moved.notes = self.sides, self.notes
        return moved

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(int(side or 0) for side in self.event_shape or ())

    def describe(self) -> dict[str, Any]:
        return self.score_model.describe() | {"latent": list(self._shape)}


def _tensors(part: Any) -> Iterator[Tensor]:
    return part.parameters() if isinstance(part, nn.Module) else iter(())


def _moved(part: Any, device: torch.device | str | None) -> Any:
    """Return a module on ``device``; a function as it is."""
    if device is None or not isinstance(part, nn.Module):
        return part
    place = torch.empty(0, device=device).device
    return part if all(weight.device == place for weight in part.parameters()) else frozen_view(part, device=device)
