"""Latent diffusion without a condition: a U-Net of codes of an autoencoder with a codebook.

References:
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2022, https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from invdiff.priors.pipelines.autoencoder import read_autoencoder
from invdiff.priors.pipelines.found import Found
from invdiff.priors.pipelines.options import Options
from invdiff.priors.pipelines.parts import Parts

__all__ = ["NETWORKS", "OPTIONS", "PIPELINES", "read"]

PIPELINES = ("LDMPipeline",)
NETWORKS = ("unet", "vqvae", "scheduler")
OPTIONS: Mapping[str, str] = {}


def call(net: Any, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
    return net(x, time, return_dict=False)[0]  # type: ignore[no-any-return]


def read(parts: Parts, options: Options) -> Found:
    training, vae = parts.scheduler(options.scheduler), read_autoencoder(parts, "vqvae", "VQModel", "AutoencoderKL")
    net: Any = parts.network("unet", "UNet2DModel")
    if int(net.config.in_channels) != vae.code_channels:
        raise ValueError(f"its unet takes {net.config.in_channels} channels, and codes have {vae.code_channels}.")
    if net.config.class_embed_type is not None or net.config.num_class_embeds is not None:
        raise ValueError("its unet takes classes, which is not supported.")
    height, width = options.sides(parts.side("unet"), vae.factor, vae.factor)
    shape = (vae.code_channels, height // vae.factor, width // vae.factor)
    return Found(net, call, {}, None, training, shape, vae)
