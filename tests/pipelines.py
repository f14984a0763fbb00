"""Pipelines of diffusers with small random weights: their own classes, built here and written by ``save_pretrained``."""

from __future__ import annotations

import importlib
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

diffusers: Any = importlib.import_module("diffusers")
transformers: Any = importlib.import_module("transformers")

__all__ = ["MAKERS", "VARIANTS", "make"]

LENGTH = 16  # tokens of a text
CLASSES = 10


def clip_tokenizer() -> Any:
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    words = [*letters, "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=LENGTH)


def clip(*, projected: bool = False) -> Any:
    config = transformers.CLIPTextConfig(
        bos_token_id=52,
        eos_token_id=53,
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=3,
        pad_token_id=1,
        vocab_size=54,
        max_position_embeddings=LENGTH,
        projection_dim=32,
    )
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config)


def t5_tokenizer() -> Any:
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -2.0) for letter in "▁" + string.ascii_lowercase)]
    return transformers.T5TokenizerFast(vocab=words, model_max_length=LENGTH, extra_ids=0)


def t5() -> Any:
    return transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=40, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    )


def vae(channels: int = 4, **config: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        **config,
    )


def unet(**config: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        **{
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "sample_size": 16,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 32,
            "attention_head_dim": 8,
            **config,
        }
    )


def latent_scheduler(**config: Any) -> Any:
    betas: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return diffusers.DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1, **config)


def stable_diffusion(**config: Any) -> Any:
    return diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        unet=unet(**config),
        scheduler=latent_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_2() -> Any:
    """With prediction of v, as its large version."""
    pipe = stable_diffusion(use_linear_projection=True)
    pipe.register_modules(scheduler=latent_scheduler(prediction_type="v_prediction"))
    return pipe


def stable_diffusion_xl() -> Any:
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80}
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip(),
        text_encoder_2=clip(projected=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet(cross_attention_dim=64, **added),
        scheduler=latent_scheduler(),
    )


def stable_diffusion_3(*, third: bool = True) -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        out_channels=4,
        pos_embed_max_size=32,
    )
    encoder = (
        transformers.T5EncoderModel(
            transformers.T5Config(vocab_size=40, d_model=64, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
        )
        if third
        else None
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1.5, shift_factor=0.06),
        text_encoder=clip(projected=True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip(projected=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=encoder,
        tokenizer_3=t5_tokenizer() if third else None,
    )


def flux(*, guided: bool = True) -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guided,
    )
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.36, shift_factor=0.11),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    )


IMAGEN: Mapping[str, Any] = {
    "sample_size": 16,
    "out_channels": 6,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "encoder_hid_dim": 32,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 2,
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
    "act_fn": "gelu",
}


def imagen_scheduler() -> Any:
    return diffusers.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", thresholding=True, dynamic_thresholding_ratio=0.95, variance_type="learned_range"
    )


def deepfloyd() -> Any:
    return diffusers.IFPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5(),
        unet=unet(in_channels=3, **IMAGEN),
        scheduler=imagen_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def deepfloyd_second() -> Any:
    return diffusers.IFSuperResolutionPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5(),
        unet=unet(in_channels=6, class_embed_type="timestep", **{**IMAGEN, "sample_size": 32}),
        scheduler=imagen_scheduler(),
        image_noising_scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def unclip() -> Any:
    project = importlib.import_module(diffusers.UnCLIPPipeline.__module__).UnCLIPTextProjModel
    small = {"block_out_channels": (32, 64), "layers_per_block": 1, "sample_size": 32, "in_channels": 6, "out_channels": 3}
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    cross = {"cross_attention_dim": 64, "class_embed_type": "identity", "resnet_time_scale_shift": "scale_shift"}
    kept = {name: IMAGEN[name] for name in ("down_block_types", "mid_block_type", "up_block_types", "out_channels")}
    scheduler = diffusers.UnCLIPScheduler
    return diffusers.UnCLIPPipeline(
        prior=diffusers.PriorTransformer(
            num_attention_heads=2, attention_head_dim=12, embedding_dim=32, num_layers=1, num_embeddings=LENGTH
        ),
        decoder=unet(in_channels=3, **kept, **cross),
        text_encoder=clip(projected=True),
        tokenizer=clip_tokenizer(),
        text_proj=project(clip_embeddings_dim=32, time_embed_dim=128, cross_attention_dim=64),
        super_res_first=diffusers.UNet2DModel(**small, **blocks),
        super_res_last=diffusers.UNet2DModel(**small, **blocks),
        prior_scheduler=scheduler(variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0),
        decoder_scheduler=scheduler(variance_type="learned_range", prediction_type="epsilon"),
        super_res_scheduler=scheduler(variance_type="fixed_small_log", prediction_type="epsilon"),
    )


def dit() -> Any:
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=16,
        num_layers=2,
        patch_size=4,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=1000,
    )
    return diffusers.DiTPipeline(transformer=transformer, vae=vae(), scheduler=diffusers.DDIMScheduler())


def latent_diffusion() -> Any:
    network = diffusers.UNet2DModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=16,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    codes = diffusers.VQModel(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
    )
    return diffusers.LDMPipeline(vqvae=codes, unet=network, scheduler=latent_scheduler())


MAKERS: Mapping[str, Callable[[], Any]] = {
    "sd-1": stable_diffusion,
    "sd-2": stable_diffusion_2,
    "sd-xl": stable_diffusion_xl,
    "sd-3": stable_diffusion_3,
    "sd-3-two-encoders": lambda: stable_diffusion_3(third=False),
    "flux-dev": flux,
    "flux-schnell": lambda: flux(guided=False),
    "if-1": deepfloyd,
    "if-2": deepfloyd_second,
    "unclip": unclip,
    "dit": dit,
    "ldm": latent_diffusion,
}
VARIANTS = ("sd-2", "sd-3-two-encoders", "flux-schnell")  # of the families above


def make(name: str, folder: Path) -> Any:
    """Return a pipeline with random weights, written to ``folder``."""
    torch.manual_seed(0)
    pipe = MAKERS[name]()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
            for weight in part.parameters():  # Some layers begin at 0, where a wrong condition would not be seen.
                if weight.abs().max() == 0:
                    torch.nn.init.normal_(weight, std=0.05)
    pipe.save_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe
