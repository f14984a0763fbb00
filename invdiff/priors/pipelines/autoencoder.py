"""The autoencoder of a latent diffusion model: codes of unit scale to images and back, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from invdiff.priors.pipelines.parts import Parts

__all__ = ["Autoencoder", "read_autoencoder"]


class Decode(nn.Module):
    r"""The decoder: images from codes :math:`z` of the diffusion model, :math:`D(z) = D_0(s z + m)`.

    A model with a codebook is decoded without rounding to its entries, which would have no gradient.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, vae: Any, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.convolution, self.network = getattr(vae, "post_quant_conv", None) or nn.Identity(), vae.decoder
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        image: Tensor = self.network(self.convolution(z.float() * self.scale + self.shift))
        return image.to(z.dtype)


class Encode(nn.Module):
    r"""The encoder: the mean code of images, :math:`E(x) = (E_0(x) - m) / s`."""

    scale: Tensor
    shift: Tensor

    def __init__(self, vae: Any, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.convolution, self.network = getattr(vae, "quant_conv", None) or nn.Identity(), vae.encoder
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        code: Tensor = self.convolution(self.network(x.float()))[:, : self.scale.shape[1]]  # The rest is a variance.
        return ((code - self.shift) / self.scale).to(x.dtype)


@dataclass(frozen=True)
class Autoencoder:
    """Attributes:
    decode: From codes to images that span [-1, 1].
    encode: From images to codes.
    factor: Pixels per number of a code along each side.
    code_channels: Channels of a code.
    channels: Channels of an image.
    """

    decode: Decode
    encode: Encode
    factor: int
    code_channels: int
    channels: int


def read_autoencoder(parts: Parts, name: str, *expected: str) -> Autoencoder:
    """Read an autoencoder.

    Raises:
        ValueError: If it is of another class, damaged, or of an unsupported kind.
    """
    config = parts.config(name)
    if config.get("norm_type") == "spatial":
        raise ValueError(f"{parts.folder / name}: decoders with norm_type 'spatial', which need a codebook, are not supported.")
    vae: Any = parts.network(name, *expected, kernels=False)
    channels = int(vae.config.get("vq_embed_dim") or vae.config.latent_channels)
    scale, shift = _scale(vae.config, channels)
    blocks = len(vae.config.block_out_channels)
    decode, encode = Decode(vae, scale, shift), Encode(vae, scale, shift)
    return Autoencoder(decode.eval(), encode.eval(), 2 ** (blocks - 1), channels, int(vae.config.out_channels))


def _scale(config: Mapping[str, Any], channels: int) -> tuple[Tensor, Tensor]:
    """Return the scale and shift from codes of the diffusion model to those of the autoencoder."""
    one, none = torch.ones(1, channels, 1, 1), torch.zeros(1, channels, 1, 1)
    scale = one / float(config.get("scaling_factor") or 1.0)
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and deviation is not None:
        return scale * torch.tensor(deviation).reshape(one.shape), none + torch.tensor(mean).reshape(one.shape)
    return scale, none + float(config.get("shift_factor") or 0.0)
