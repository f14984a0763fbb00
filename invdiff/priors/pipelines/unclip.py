"""unCLIP, DALL-E 2's design: a prior of image embeddings given a text, and a U-Net of pixels given the embedding.

The posterior is that of the image given one embedding, which is drawn first. The networks that enlarge the image are not read.

References:
    Ramesh et al., Hierarchical Text-Conditional Image Generation with CLIP Latents, 2022, https://arxiv.org/abs/2204.06125
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.priors.checkpoints.diffusers_scheduler import Training, read_scheduler
from invdiff.priors.checkpoints.diffusers_weights import read_json
from invdiff.priors.pipelines.found import Found
from invdiff.priors.pipelines.options import TEXT, Options
from invdiff.priors.pipelines.parts import Parts, library
from invdiff.priors.pipelines.text import cut_off, quiet, text_pipeline

__all__ = ["NETWORKS", "OPTIONS", "PIPELINES", "read"]

PIPELINES = ("UnCLIPPipeline",)
NETWORKS = ("prior", "decoder", "text_proj", "text_encoder", "tokenizer", "prior_scheduler", "decoder_scheduler")
STEPS = 25  # of the prior of embeddings, as the pipeline has them
ONE_SIZE = True  # of images
OPTIONS: Mapping[str, str] = {
    **{name: what for name, what in TEXT.items() if name != "negative_prompt"},
    "threshold": "static, which clips denoised images to [-1, 1], or the quantile of dynamic thresholding, such as 0.995",
    "image_embedding": "CLIP embedding of an image, a tensor (D,), instead of one drawn given the prompt",
    "embedding_steps": f"steps of the prior of embeddings ({STEPS})",
    "embedding_guidance": "scale of guidance of that prior: 4 in the pipeline, and 1, none, here",
    "seed": "of the embedding (0)",
}


DRAWN = ("embedding_steps", "embedding_guidance", "seed")  # options that determine the embedding


def call(net: Any, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
    output: Tensor = net(
        sample=x,
        timestep=time,
        encoder_hidden_states=condition["text"],
        class_labels=condition["added"],
        attention_mask=condition["mask"],
        return_dict=False,
    )[0]
    return output


def read(parts: Parts, options: Options) -> Found:
    prompt = options.prompt
    pipe = text_pipeline(parts, PIPELINES[0], ("text_encoder", "tokenizer"))
    with quiet():
        pooled, text, mask = pipe._encode_prompt(prompt, parts.device, 1, True)
    pooled, text = pooled.float(), text.float()
    notes = cut_off((prompt,), pipe.tokenizer)
    del pipe
    embedding = options.tensor("image_embedding")
    if embedding is None:
        embedding = _draw(parts, options, pooled, text, mask)
    width = int(parts.config("prior").get("embedding_dim") or 0)
    if embedding.numel() != width:
        raise ValueError(f"image_embedding: expected {width} numbers, got a tensor of shape {tuple(embedding.shape)}.")
    project: Any = parts.network("text_proj", "UnCLIPTextProjModel", kernels=False).to(parts.device)
    with torch.no_grad():
        text, added = project(
            image_embeddings=embedding.reshape(1, -1).to(pooled),
            prompt_embeds=pooled,
            text_encoder_hidden_states=text,
            do_classifier_free_guidance=True,
        )
    mask = F.pad(mask, (project.clip_extra_context_tokens, 0), value=True)
    without, given = (
        {"text": text[n : n + 1].float().cpu(), "added": added[n : n + 1].float().cpu(), "mask": mask[n : n + 1].cpu()}
        for n in (0, 1)
    )
    training = _training(parts, "decoder_scheduler", options)
    net: Any = parts.network("decoder", "UNet2DConditionModel")
    side = parts.side("decoder")
    if not isinstance(side, int):
        raise ValueError(f"its decoder has the sample_size {side}, expected a number.")
    facts = {name: options.given[name] for name in DRAWN if name in options.given}
    shape = (int(net.config.in_channels), side, side)
    return Found(net, call, given, without, training, shape, facts=facts, notes=notes)


def _training(parts: Parts, name: str, options: Options) -> Training:
    """Return the training parameters of an ``UnCLIPScheduler``, whose noise levels are those of a cosine."""
    path = parts.folder / name / "scheduler_config.json"
    config = {**(read_json(path) or {}), "_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"}
    return read_scheduler(config, options.scheduler, where=str(path))


@torch.no_grad()
def _draw(parts: Parts, options: Options, pooled: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    """Return an embedding drawn from the prior of embeddings, with classifier-free guidance, as the pipeline draws it."""
    prior: Any = parts.network("prior", "PriorTransformer", kernels=False).to(parts.device)
    config = read_json(parts.folder / "prior_scheduler" / "scheduler_config.json") or {}
    scheduler = library("diffusers").UnCLIPScheduler.from_config({k: v for k, v in config.items() if k[:1] != "_"})
    scheduler.set_timesteps(options.whole("embedding_steps", STEPS, 2, 1000))
    scale = options.number("embedding_guidance", 1.0, 0, 100)
    noise = torch.Generator().manual_seed(options.whole("seed", 0, 0, 2**63 - 1))
    state = torch.randn(1, int(prior.config.embedding_dim), generator=noise).to(pooled) * scheduler.init_noise_sigma
    times = [int(time) for time in scheduler.timesteps]
    for time, following in zip(times, [*times[1:], None], strict=True):
        found = prior(
            torch.cat([state, state]),
            timestep=time,
            proj_embedding=pooled,
            encoder_hidden_states=text,
            attention_mask=mask,
        ).predicted_image_embedding
        without, given = found.chunk(2)
        guided = without + scale * (given - without)
        state = scheduler.step(guided, timestep=time, sample=state, generator=noise, prev_timestep=following).prev_sample
    embedding: Tensor = prior.post_process_latents(state)
    return embedding
