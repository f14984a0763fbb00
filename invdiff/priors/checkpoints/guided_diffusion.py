"""Checkpoints of OpenAI's guided-diffusion and improved-diffusion: the state dict of a U-Net without further information."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from invdiff.priors.checkpoints.assumptions import Choices, one_of, whole, yes_no
from invdiff.priors.checkpoints.container import Contents, state_dicts
from invdiff.priors.networks.adm import ATTENTION_ORDERS
from invdiff.priors.spec import Checkpoint, NetworkSpec

__all__ = ["OPTIONS", "PUBLISHED", "Published", "read"]

OPTIONS: Mapping[str, str] = {
    "label": "class to sample with a class-conditional network: a number from 0",
    "heads": "number of attention heads (num_heads of the training)",
    "head_channels": "features of each head, instead of heads (num_head_channels)",
    "heads_up": "number of heads in the decoder, if different (num_heads_upsample)",
    "attention_order": "legacy or new (use_new_attention_order)",
    "schedule": "linear or cosine (noise_schedule)",
    "steps": "number of training steps of the diffusion (diffusion_steps)",
    "rescale": "yes or no: the time input is rescaled to 0 to 1000 for any number of steps (rescale_timesteps)",
    "predicts": "eps, x0 (predict_xstart) or v",
    "image_size": "side of the images, in pixels",
}

GUIDED = "https://github.com/openai/guided-diffusion#readme"
IMPROVED = "https://github.com/openai/improved-diffusion#models-and-hyperparameters"
BROKEN = "is not a complete set of guided-diffusion weights: {}. Expected the state dict of a UNetModel; it may be cut off."
FOUR = (
    "the network has 4 channels: taken as images (such as RGB with alpha or depth). Latent codes of an autoencoder often have "
    "4 too, and nothing in the file tells them apart",
)
USUAL = "common default; no published network has these shapes"
SIZES: Mapping[tuple[float, ...], int] = {  # script_util.py of both repositories
    (0.5, 1, 1, 2, 2, 4, 4): 512,
    (1, 1, 2, 2, 4, 4): 256,
    (1, 1, 2, 3, 4): 128,
    (1, 2, 3, 4): 64,
    (1, 2, 2, 2): 32,
}
HEADS = ("heads", "head_channels", "heads_up")
DEFAULTS: Mapping[str, Any] = {"attention_order": "legacy", "schedule": "linear", "steps": 1000, "predicts": "eps"}


@dataclass(frozen=True)
class Published:
    """Published settings of a checkpoint that are not in its file.

    Attributes:
        name: File name of the checkpoint.
        source: Web page of the settings.
        shapes: The arguments of :class:`~invdiff.priors.networks.adm.ADM` by which the checkpoint is recognized.
        flags: Options that differ from :data:`DEFAULTS`.
    """

    name: str
    source: str
    shapes: Mapping[str, Any]
    flags: Mapping[str, Any]


def _shapes(width: int, multipliers: list[float], blocks: int, attention: list[int], **rest: bool) -> dict[str, Any]:
    usual = {"updown": True, "scale_shift": True, "learned_variance": True} | rest
    return {"width": width, "multipliers": multipliers, "blocks": blocks, "attention": attention} | usual


# Independent of the classes: 256x256_diffusion.pt, 256x256_diffusion_uncond.pt and lsun_*.pt share one entry.
PUBLISHED = (
    Published("256x256_diffusion.pt", GUIDED, _shapes(256, [1, 1, 2, 2, 4, 4], 2, [8, 16, 32]), {"head_channels": 64}),
    Published("512x512_diffusion.pt", GUIDED, _shapes(256, [0.5, 1, 1, 2, 2, 4, 4], 2, [16, 32, 64]), {"head_channels": 64}),
    Published("128x128_diffusion.pt", GUIDED, _shapes(256, [1, 1, 2, 3, 4], 2, [4, 8, 16]), {"heads": 4}),
    Published(
        "64x64_diffusion.pt",
        GUIDED,
        _shapes(192, [1, 2, 3, 4], 3, [2, 4, 8]),
        {"head_channels": 64, "attention_order": "new", "schedule": "cosine"},
    ),
    Published(
        "ffhq_10m.pt",
        "https://github.com/DPS2022/diffusion-posterior-sampling/blob/main/configs/model_config.yaml",
        _shapes(128, [1, 1, 2, 2, 4, 4], 1, [16]),
        {"head_channels": 64},
    ),
    Published(
        "imagenet64_uncond_100M_1500K.pt",
        IMPROVED,
        _shapes(128, [1, 2, 3, 4], 3, [4, 8], updown=False),
        {"heads": 4, "schedule": "cosine", "steps": 4000, "rescale": "yes"},
    ),
    Published(
        "cifar10_uncond_50M_500K.pt",
        IMPROVED,
        _shapes(128, [1, 2, 2, 2], 3, [2, 4], updown=False),
        {"heads": 4, "schedule": "cosine", "steps": 4000, "rescale": "yes"},
    ),
    Published(
        "imagenet64_cond_270M_250K.pt",
        IMPROVED,
        _shapes(192, [1, 2, 3, 4], 3, [4, 8], updown=False),
        {"heads": 4, "schedule": "cosine", "steps": 4000, "rescale": "no"},
    ),
    Published(
        "lsun_uncond_100M_1200K_bs128.pt",
        IMPROVED,
        _shapes(128, [1, 1, 2, 2, 4, 4], 2, [16], updown=False, scale_shift=False),
        {"heads": 1},
    ),
)


def read(contents: Contents, given: Mapping[str, Any]) -> Checkpoint | None:
    """Read a state dict of this family, which may be nested in the file and whose names may have a common prefix.

    Settings that the shapes do not determine are taken from ``given``, or else from those published for networks of these
    shapes, and are then listed in ``assumed``. Return ``None`` for a file of another family.

    Raises:
        ValueError: If weights are missing or belong to another kind of network, or an option is missing or invalid.
    """
    for where, tensors in state_dicts(contents.data):
        beginnings = {match[1]: None for name in tensors if (match := re.match(r"(|.*?\.)input_blocks\.\d+\.", name))}
        if beginnings:
            prefix = min(beginnings, key=lambda beginning: "ema" not in beginning.lower())
            weights = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            try:
                _refuse_others(weights, prefix, tensors)
                spec = _spec(weights, f"{where}.{prefix}".strip("."), Choices(given))
                return Checkpoint(spec, weights, FOUR if spec.config["channels"] == 4 else ())
            except ValueError as error:
                raise ValueError(f"{contents.path}: {error}") from error
    return None


def _refuse_others(weights: Mapping[str, Tensor], prefix: str, everything: Mapping[str, Tensor]) -> None:
    """Raise a ValueError for networks with the same pattern of names that are not denoisers of images."""
    latent = any("transformer_blocks" in name or name.startswith("first_stage_model.") for name in everything)
    if latent or prefix.endswith("diffusion_model."):
        raise ValueError(
            "is the U-Net of a latent diffusion model (such as Stable Diffusion), which denoises latent codes. "
            "Expected a network of images: latent models are not supported."
        )
    pooled = any(re.match(r"out\.(?!(0|2)\.(weight|bias)$)", name) for name in weights)
    if pooled and not any(name.startswith("output_blocks.") for name in weights):
        raise ValueError("is a classifier of noisy images (guided-diffusion's EncoderUNetModel). Expected a diffusion model.")
    if any(name.endswith(".qkv.weight") and tensor.ndim == 4 for name, tensor in weights.items()):
        raise ValueError("is of OpenAI's consistency_models, whose networks are evaluated differently: not supported.")
    came, outputs = _shape(weights, "input_blocks.0.0.weight", 4)[1], _shape(weights, "out.2.weight", 4)[0]
    if came == 2 * outputs or came == outputs == 6:
        raise ValueError(
            f"takes {came} channels for {came // 2} of an image: it is a super-resolution model, conditioned on a small image"
            f"{' (its 6 outputs are 3 channels and their variance)' if came == outputs else ''}. Expected an unconditional or "
            "class-conditional model."
        )
    if outputs not in (came, 2 * came):
        image = next((n for n in (3, 1) if outputs in (n, 2 * n) and n < came), None)
        more = came - (image or came)
        further = f", so it is conditioned on {more} further channel{'s' * (more > 1)}, such as a mask or depth" if more else ""
        raise ValueError(
            f"takes {came} channels and returns {outputs}{further}. Expected as many outputs, or twice as many (learned "
            "variance)."
        )


def _spec(weights: Mapping[str, Tensor], where: str, choices: Choices) -> NetworkSpec:
    inferred = _infer(weights)
    published = next((entry for entry in PUBLISHED if entry.shapes.items() <= inferred.items()), None)
    reason = f"as {published.name}, see {published.source}" if published else USUAL
    usual = {**DEFAULTS, "rescale": "no" if inferred["updown"] else "yes"}  # the defaults of the two repositories
    usual |= published.flags if published else _usual_heads(inferred)

    asked = [name for name in HEADS if name in choices.given]
    if not {"heads", "head_channels"} & set(asked):
        asked += [name for name in ("heads", "head_channels") if name in usual]
    config = inferred | dict.fromkeys(HEADS)
    config |= {name: choices.choose(name, whole(1, 4096), usual.get(name), reason) for name in asked}
    config["attention_order"] = choices.choose("attention_order", one_of(ATTENTION_ORDERS), usual["attention_order"], reason)

    kind = choices.choose("schedule", one_of(("linear", "cosine")), usual["schedule"], reason)
    steps = choices.choose("steps", whole(21, 100_000), usual["steps"], reason)
    if kind == "linear":  # Betas scaled to the paper's total for any number of steps; with 20 steps the last beta would be 1.
        schedule = {"name": "linear-betas", "steps": steps, "beta_start": 0.1 / steps, "beta_end": 20 / steps}
    else:
        schedule = {"name": "cosine-betas", "steps": steps}
    rescaled = steps != 1000 and choices.choose("rescale", yes_no, usual["rescale"], reason)
    predicts = choices.choose("predicts", one_of(("eps", "x0", "v")), usual["predicts"], reason)

    stride = 2 ** (len(inferred["multipliers"]) - 1)
    known = SIZES.get(tuple(inferred["multipliers"]))
    side = choices.choose("image_size", whole(1, 2**16, multiple=stride), known or 8 * stride, None if known else reason)
    return NetworkSpec(
        "ADM",
        config,
        (config["channels"], side, side),
        predicts,
        schedule,
        time_scale=1000 / steps if rescaled else 1.0,
        label=choices.label(inferred["classes"]),
        facts={"family": "guided-diffusion"} | ({"weights": where} if where else {}),
        assumed=choices.assumed,
    )


def _infer(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the arguments of :class:`ADM` that names and shapes determine."""
    outputs = {int(match[1]) for name in weights if (match := re.match(r"output_blocks\.(\d+)\.", name))}
    inputs = {int(match[1]) for name in weights if (match := re.match(r"input_blocks\.(\d+)\.", name))}
    matches = [re.match(r"output_blocks\.(\d+)\.[12]\.(in_layers|conv)\.", name) for name in weights]
    doubles = {int(match[1]): match[2] for match in matches if match}
    gap = next((index for index in range(max(inputs)) if index not in inputs), None)  # a downsampling layer without weights
    count, width = len(outputs), _shape(weights, "time_embed.0.weight", 2)[1]
    # Each level has blocks + 1 decoder blocks; the last one doubles the resolution, except on the finest level.
    blocks = min(doubles) if doubles else gap - 1 if gap is not None else count - 1
    if blocks < 1 or count % (blocks + 1) or width < 1:
        raise ValueError(BROKEN.format(f"{count} output_blocks, {blocks + 1} for each level, do not form a U-Net"))
    first = [1 + level * (blocks + 1) for level in range(count // (blocks + 1))]  # input block of each level
    features = [_shape(weights, f"input_blocks.{index}.0.out_layers.3.weight", 4)[0] for index in first]
    channels = _shape(weights, "input_blocks.0.0.weight", 4)[1]
    return {
        "channels": channels,
        "width": width,
        "multipliers": [f // width if f % width == 0 else f / width for f in features],
        "blocks": blocks,
        "attention": [2**level for level, index in enumerate(first) if f"input_blocks.{index}.1.qkv.weight" in weights],
        "scale_shift": _shape(weights, "input_blocks.1.0.emb_layers.1.weight", 2)[0] == 2 * features[0],
        "updown": "in_layers" in doubles.values(),
        "conv_resample": bool(doubles) or gap is None,
        "learned_variance": _shape(weights, "out.2.weight", 4)[0] == 2 * channels,
        "classes": _shape(weights, "label_emb.weight", 2)[0] if "label_emb.weight" in weights else None,
    }


def _usual_heads(inferred: Mapping[str, Any]) -> dict[str, int]:
    """Return 64 features per head, as in most guided-diffusion networks, or else 4 heads, the default of both codes."""
    factors = (*inferred["attention"], 2 ** (len(inferred["multipliers"]) - 1))  # The middle block always has attention.
    features = [round(inferred["multipliers"][factor.bit_length() - 1] * inferred["width"]) for factor in factors]
    return {"head_channels": 64} if inferred["updown"] and not any(f % 64 for f in features) else {"heads": 4}


def _shape(weights: Mapping[str, Tensor], name: str, dimensions: int) -> torch.Size:
    tensor = weights.get(name)
    if tensor is None or tensor.ndim != dimensions:
        came = "lacks" if tensor is None else f"has {tuple(tensor.shape)} for"
        raise ValueError(BROKEN.format(f"it {came} {name}"))
    return tensor.shape
