"""Stable Diffusion 3: a transformer of codes trained by flow matching, conditioned on a text by up to three encoders.

References:
    Esser et al., Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, 2024,
    https://arxiv.org/abs/2403.03206
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from invdiff.priors.pipelines.autoencoder import read_autoencoder
from invdiff.priors.pipelines.found import Found
from invdiff.priors.pipelines.options import TEXT, Options
from invdiff.priors.pipelines.parts import Parts
from invdiff.priors.pipelines.text import cut_off, quiet, text_pipeline

__all__ = ["NETWORKS", "OPTIONS", "PIPELINES", "read"]

PIPELINES = ("StableDiffusion3Pipeline",)
TEXTS = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
NETWORKS = ("transformer", "vae", *TEXTS, "scheduler")
MOST = 256  # tokens of the third encoder, as the pipeline has it
OPTIONS: Mapping[str, str] = {**TEXT, "tokens": f"most tokens of the third text encoder ({MOST})"}


def call(net: Any, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
    output: Tensor = net(
        hidden_states=x,
        timestep=time,
        encoder_hidden_states=condition["text"],
        pooled_projections=condition["pooled"],
        return_dict=False,
    )[0]
    return output


def read(parts: Parts, options: Options) -> Found:
    """Read the pipeline. A third encoder that the folder lacks is replaced by zeros, as the pipeline does."""
    prompt, negative, most = options.prompt, options.negative, options.whole("tokens", MOST, 1, 512)
    width = int(parts.config("transformer").get("joint_attention_dim") or 0)
    pipe = text_pipeline(parts, PIPELINES[0], TEXTS)
    if pipe.text_encoder_3 is None:
        pipe.transformer = _Width(width)
    with quiet():
        text, without, pooled, pooled_without = pipe.encode_prompt(
            prompt,
            prompt,
            prompt,
            device=parts.device,
            do_classifier_free_guidance=True,
            negative_prompt=negative,
            max_sequence_length=most,
        )
    notes = cut_off(
        (prompt, negative), *(pipe.tokenizer_3,) if pipe.tokenizer_3 else (pipe.tokenizer, pipe.tokenizer_2), most=most
    )
    del pipe
    training, vae = parts.scheduler(options.scheduler), read_autoencoder(parts, "vae", "AutoencoderKL")
    net: Any = parts.network("transformer", "SD3Transformer2DModel")
    if net.config.in_channels != vae.code_channels:
        raise ValueError(f"its transformer takes {net.config.in_channels} channels, and codes have {vae.code_channels}.")
    unit = vae.factor * int(net.config.patch_size)
    height, columns = options.sides(parts.side("transformer"), vae.factor, unit)
    most_side = int(net.config.pos_embed_max_size or 0) * unit
    if max(height, columns) > most_side:
        raise ValueError(f"image_size: the network has positions for up to {most_side} pixels, got {height} x {columns}.")
    return Found(
        net,
        call,
        {"text": text.float().cpu(), "pooled": pooled.float().cpu()},
        {"text": without.float().cpu(), "pooled": pooled_without.float().cpu()},
        training,
        (vae.code_channels, height // vae.factor, columns // vae.factor),
        vae,
        notes=notes,
    )


class _Width:
    """Stands for a transformer of which only the width of the encoding is asked."""

    def __init__(self, width: int) -> None:
        self.config = self
        self.joint_attention_dim = width
