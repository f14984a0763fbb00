"""Stable Diffusion 1 and 2: a U-Net of codes, conditioned on a text by CLIP.

References:
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2022, https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from invdiff.priors.pipelines.autoencoder import Autoencoder, read_autoencoder
from invdiff.priors.pipelines.found import Found
from invdiff.priors.pipelines.options import TEXT, Options
from invdiff.priors.pipelines.parts import Parts
from invdiff.priors.pipelines.text import cut_off, quiet, text_pipeline

__all__ = ["NETWORKS", "OPTIONS", "PIPELINES", "check_unet", "read"]

PIPELINES = ("StableDiffusionPipeline",)
NETWORKS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
OPTIONS: Mapping[str, str] = TEXT


def call(net: Any, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
    return net(x, time, encoder_hidden_states=condition["text"], return_dict=False)[0]  # type: ignore[no-any-return]


def read(parts: Parts, options: Options) -> Found:
    prompt, negative = options.prompt, options.negative
    pipe = text_pipeline(parts, PIPELINES[0], ("text_encoder", "tokenizer"), requires_safety_checker=False)
    with quiet():
        text, without = pipe.encode_prompt(prompt, parts.device, 1, True, negative)
    notes = cut_off((prompt, negative), pipe.tokenizer)
    del pipe
    training, vae = parts.scheduler(options.scheduler), read_autoencoder(parts, "vae", "AutoencoderKL")
    net: Any = parts.network("unet", "UNet2DConditionModel")
    check_unet(net, vae)
    sides = options.sides(parts.side("unet"), vae.factor, vae.factor)
    return Found(
        net,
        call,
        {"text": text.float().cpu()},
        {"text": without.float().cpu()},
        training,
        (vae.code_channels, sides[0] // vae.factor, sides[1] // vae.factor),
        vae,
        notes=notes,
    )


def check_unet(net: Any, vae: Autoencoder) -> None:
    """Check that a U-Net takes codes and a text, and nothing else.

    Raises:
        ValueError: If it does not.
    """
    if int(net.config.in_channels) != vae.code_channels:
        raise ValueError(
            f"its unet takes {net.config.in_channels} channels, and codes have {vae.code_channels}: it is conditioned on an "
            "image besides the text (for inpainting, enlargement or editing), and is no prior of images."
        )
    if net.config.time_cond_proj_dim is not None:
        raise ValueError("its unet was distilled to few steps (time_cond_proj_dim), and is no denoiser at every level.")
    if net.config.class_embed_type is not None:
        raise ValueError(f"its unet takes classes ({net.config.class_embed_type}) besides the text, which is not supported.")
