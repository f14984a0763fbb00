"""Flux: a transformer of patches of codes trained by flow matching, conditioned on a text by CLIP and T5.

References:
    Black Forest Labs, FLUX.1, 2024, https://github.com/black-forest-labs/flux
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
from invdiff.priors.pipelines.text import cut_off, quiet, text_pipeline

__all__ = ["NETWORKS", "OPTIONS", "PIPELINES", "read"]

PIPELINES = ("FluxPipeline",)
TEXTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
NETWORKS = ("transformer", "vae", *TEXTS, "scheduler")
MOST, EMBEDDED, SIDE = 512, 3.5, 1024  # tokens, guidance and side of images in pixels, as the pipeline has them
OPTIONS: Mapping[str, str] = {
    **TEXT,
    "tokens": f"most tokens of the second text encoder ({MOST})",
    "embedded_guidance": f"guidance that a distilled network (Flux dev) takes as an input ({EMBEDDED})",
}


def call(net: Any, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
    height, width = x.shape[-2] // 2, x.shape[-1] // 2
    text = condition["text"]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).to(x)
    output: Tensor = net(
        hidden_states=_patches(x),
        timestep=time / 1000,
        guidance=condition.get("guidance"),
        encoder_hidden_states=text,
        pooled_projections=condition["pooled"],
        txt_ids=text.new_zeros(text.shape[1], 3),
        img_ids=places,
        return_dict=False,
    )[0]
    return _image(output, height, width)


def _patches(x: Tensor) -> Tensor:
    """Return patches of 2 x 2 as rows: ``(B, C, H, W)`` to ``(B, H W / 4, 4 C)``."""
    rows, channels, height, width = x.shape
    grid = x.reshape(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return grid.reshape(rows, height * width // 4, 4 * channels)


def _image(patches: Tensor, height: int, width: int) -> Tensor:
    """Return the inverse of :func:`_patches`, for ``height`` times ``width`` patches."""
    grid = patches.reshape(len(patches), height, width, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(len(patches), -1, 2 * height, 2 * width)


def read(parts: Parts, options: Options) -> Found:
    prompt, negative, most = options.prompt, options.negative, options.whole("tokens", MOST, 1, 512)
    pipe = text_pipeline(parts, PIPELINES[0], TEXTS)
    found = []
    with quiet():
        for text in (prompt, negative or ""):
            encoded, pooled, _ = pipe.encode_prompt(text, text, device=parts.device, max_sequence_length=most)
            found.append({"text": encoded.float().cpu(), "pooled": pooled.float().cpu()})
    notes = cut_off((prompt, negative), pipe.tokenizer_2, most=most)
    del pipe
    training, vae = parts.scheduler(options.scheduler), read_autoencoder(parts, "vae", "AutoencoderKL")
    net: Any = parts.network("transformer", "FluxTransformer2DModel")
    if net.config.in_channels != 4 * vae.code_channels or (net.config.out_channels or net.config.in_channels) != (
        net.config.in_channels
    ):
        raise ValueError(
            f"its transformer takes {net.config.in_channels} numbers a patch, and 2 x 2 codes have {4 * vae.code_channels}: it "
            "is conditioned on an image besides the text (Fill, Depth, Canny), and is no prior of images."
        )
    facts: dict[str, Any] = {}
    if net.config.guidance_embeds:
        guidance = options.number("embedded_guidance", EMBEDDED, 0, 1000)
        facts["embedded_guidance"] = guidance
        if "embedded_guidance" not in options.given:
            notes += (f"the network was distilled with guidance, of which {guidance:g} is taken (embedded_guidance)",)
        for condition in found:
            condition["guidance"] = torch.full((1,), guidance)
    elif "embedded_guidance" in options.given:
        raise ValueError("embedded_guidance: the network takes none. Leave it out.")
    else:
        notes += ("a network that takes no guidance as an input is one distilled to few steps (schnell): no exact denoiser",)
    height, width = options.sides(SIDE, 1, 2 * vae.factor)
    shape = (vae.code_channels, height // vae.factor, width // vae.factor)
    return Found(net, call, found[0], found[1], training, shape, vae, facts=facts, notes=notes)
