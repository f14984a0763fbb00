"""DeepFloyd IF, of Imagen's design: U-Nets of pixels, conditioned on a text by T5; the second also on a small image.

The stages are a cascade: p(small | text) p(large | small, text). Each is a prior of its own.

References:
    Saharia et al., Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding, 2022,
    https://arxiv.org/abs/2205.11487
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.priors.checkpoints.diffusers_weights import read_json
from invdiff.priors.pipelines.found import Found
from invdiff.priors.pipelines.options import TEXT, Options
from invdiff.priors.pipelines.parts import Parts, library
from invdiff.priors.pipelines.text import cut_off, quiet, text_pipeline

__all__ = ["NETWORKS", "OPTIONS", "PIPELINES", "read"]

FIRST, SECOND = PIPELINES = ("IFPipeline", "IFSuperResolutionPipeline")
NETWORKS = ("unet", "text_encoder", "tokenizer", "scheduler", "image_noising_scheduler")
LEVEL, TOKENS = 250, 77  # noise added to the small image, and tokens, as the pipelines have them
OPTIONS: Mapping[str, str] = {
    **TEXT,
    "threshold": "static, which clips denoised images to [-1, 1], or the quantile of dynamic thresholding, such as 0.95",
    "image": "of the second stage: the small image, a file, or a tensor (C, h, w) that spans [-1, 1]",
    "noise_level": f"of the second stage: step of the noise added to the small image ({LEVEL})",
    "seed": "of the second stage: of that noise (0)",
}


def call(net: Any, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
    given = torch.cat([x, condition["image"]], 1) if "image" in condition else x
    output: Tensor = net(
        given,
        time,
        encoder_hidden_states=condition["text"],
        class_labels=condition.get("level"),
        return_dict=False,
    )[0]
    return output


def read(parts: Parts, options: Options) -> Found:
    """Read a stage. Prompts are lowercased, and otherwise as given (``clean_caption=False``)."""
    prompt, negative, second = options.prompt, options.negative, parts.index["_class_name"] == SECOND
    pipe = text_pipeline(parts, FIRST, ("tokenizer", "text_encoder"), requires_safety_checker=False)
    with quiet():
        text, without = pipe.encode_prompt(prompt, True, device=parts.device, negative_prompt=negative, clean_caption=False)
    notes = cut_off((prompt, negative), pipe.tokenizer, most=TOKENS)
    del pipe
    training = parts.scheduler(options.scheduler)
    net: Any = parts.network("unet", "UNet2DConditionModel")
    channels = int(net.config.in_channels) // (2 if second else 1)
    sides = options.sides(parts.side("unet"), 1, 1)
    extra = _small(parts, options, channels, sides) if second else {}
    return Found(
        net,
        call,
        {"text": text.float().cpu(), **extra},
        {"text": without.float().cpu(), **extra},
        training,
        (channels, *sides),
        windows=not second,
        facts={"noise_level": int(extra["level"])} if second else {},
        notes=notes,
    )


def _small(parts: Parts, options: Options, channels: int, sides: tuple[int, int]) -> dict[str, Tensor]:
    """Return the condition of the second stage: the small image enlarged, with noise, and the level of that noise."""
    image = options.tensor("image")
    if image is None or image.shape[:-2] not in ((channels,), (1, channels)):
        got = "none" if image is None else f"one of shape {tuple(image.shape)}"
        raise ValueError(
            f"the second stage enlarges a small image. Give it as image=..., a tensor ({channels}, h, w) that spans [-1, 1]: a "
            f"sample of the first stage, or what was measured. Got {got}."
        )
    path = parts.folder / "image_noising_scheduler" / "scheduler_config.json"
    config = read_json(path)
    if config is None:
        raise ValueError(f"{path}: is missing. Copy the folder again.")
    scheduler = library("diffusers").DDPMScheduler.from_config({k: v for k, v in config.items() if k[:1] != "_"})
    level = torch.tensor([options.whole("noise_level", LEVEL, 0, int(scheduler.config.num_train_timesteps) - 1)])
    image = image.detach().reshape(1, *image.shape[-3:]).float().cpu()
    large = F.interpolate(image, sides, mode="bilinear", align_corners=True)
    noise = torch.randn(large.shape, generator=torch.Generator().manual_seed(options.whole("seed", 0, 0, 2**63 - 1)))
    return {"image": scheduler.add_noise(large, noise, level), "level": level}
