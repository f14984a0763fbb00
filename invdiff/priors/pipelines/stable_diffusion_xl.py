"""Stable Diffusion XL: a U-Net of codes, conditioned on a text by two encoders, and on the size of the image.

References:
    Podell et al., SDXL, 2023, https://arxiv.org/abs/2307.01952
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from invdiff.priors.pipelines.autoencoder import read_autoencoder
from invdiff.priors.pipelines.found import Found
from invdiff.priors.pipelines.options import TEXT, Options
from invdiff.priors.pipelines.parts import Parts
from invdiff.priors.pipelines.stable_diffusion import check_unet
from invdiff.priors.pipelines.text import cut_off, quiet, text_pipeline

__all__ = ["NETWORKS", "OPTIONS", "PIPELINES", "read"]

PIPELINES = ("StableDiffusionXLPipeline",)
NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
OPTIONS: Mapping[str, str] = TEXT
TEXTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


def call(net: Any, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
    added = {"text_embeds": condition["pooled"], "time_ids": condition["sizes"]}
    output: Tensor = net(x, time, encoder_hidden_states=condition["text"], added_cond_kwargs=added, return_dict=False)[0]
    return output


def read(parts: Parts, options: Options) -> Found:
    """Read the pipeline. The image is one of the full size, ``image_size``, which is not cropped."""
    prompt, negative = options.prompt, options.negative
    zeros = bool(parts.index.get("force_zeros_for_empty_prompt", True))
    pipe = text_pipeline(parts, PIPELINES[0], TEXTS, force_zeros_for_empty_prompt=zeros)
    with quiet():
        text, without, pooled, pooled_without = pipe.encode_prompt(
            prompt, device=parts.device, do_classifier_free_guidance=True, negative_prompt=negative
        )
    notes = cut_off((prompt, negative), pipe.tokenizer, pipe.tokenizer_2)
    del pipe
    training, vae = parts.scheduler(options.scheduler), read_autoencoder(parts, "vae", "AutoencoderKL")
    net: Any = parts.network("unet", "UNet2DConditionModel")
    check_unet(net, vae)
    height, width = options.sides(parts.side("unet"), vae.factor, vae.factor)
    sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
    return Found(
        net,
        call,
        {"text": text.float().cpu(), "pooled": pooled.float().cpu(), "sizes": sizes},
        {"text": without.float().cpu(), "pooled": pooled_without.float().cpu(), "sizes": sizes},
        training,
        (vae.code_channels, height // vae.factor, width // vae.factor),
        vae,
        notes=notes,
    )
