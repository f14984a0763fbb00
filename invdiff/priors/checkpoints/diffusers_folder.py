"""Folders of diffusers, here or on the Hugging Face hub: a ``UNet2DModel``, alone or in a pipeline with its scheduler.

A folder is data: its JSON is read as JSON and its weights as tensors, and no code of it, nor code that it names, is run.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invdiff.priors.checkpoints import diffusers_scheduler
from invdiff.priors.checkpoints.assumptions import Choices, whole
from invdiff.priors.checkpoints.diffusers_scheduler import Training, read_scheduler
from invdiff.priors.checkpoints.diffusers_weights import KINDS, WEIGHTS, read_json, read_weights
from invdiff.priors.networks.unet2d import DiffusersUNet, unet2d_model
from invdiff.priors.spec import Checkpoint, NetworkSpec

__all__ = ["OPTIONS", "download", "read_folder"]

OPTIONS: Mapping[str, str] = {
    **diffusers_scheduler.OPTIONS,
    "label": "class to sample, of a network that knows classes: a number from 0",
    "image_size": "side of the images the network was trained on, where config.json has no sample_size",
}

CONFIGS = ("model_index.json", "config.json", "scheduler_config.json", f"{WEIGHTS}*.json", "unet/*.json", "scheduler/*.json")
# What blocks of a UNet2DModel may be. Others wait for a text, or for nothing at all.
BLOCKS = ("", "Attn", "Skip", "AttnSkip")
DOWN = (*(f"{kind}DownBlock2D" for kind in BLOCKS), "ResnetDownsampleBlock2D")
UP = (*(f"{kind}UpBlock2D" for kind in BLOCKS), "ResnetUpsampleBlock2D")
NO_LATENTS = (
    "Latent priors, and those guided by text or images, are not supported: expected a network of pixels, a UNet2DModel "
    "with its scheduler"
)


def read_folder(folder: Path, given: Mapping[str, Any]) -> Checkpoint | None:
    """Return the network of a folder that diffusers wrote; ``None`` where nothing in it speaks of diffusers.

    The folder holds ``config.json`` and weights, or ``unet/`` and ``scheduler/`` with a ``model_index.json``. Samplers of
    the package may clip the estimate of the image, or rescale it by its largest values. The prior never does, since a
    clipped denoiser is the gradient of nothing; ``clip_sample`` and ``thresholding`` are recorded among the facts.

    Args:
        folder: The folder of the network, or of the pipeline.
        given: Options by the names of :data:`OPTIONS`. They win over what the folder says.

    Raises:
        ValueError: If it is of diffusers, but damaged, of a kind that is not supported, or in need of an option.
        ImportError: If diffusers is not installed.
    """
    if folder.name == "unet" and (folder.parent / "model_index.json").is_file():
        folder = folder.parent  # its scheduler is next door
    place = _find_network(folder)
    if place is None:
        return None
    given = {name: value for name, value in given.items() if value is not None}
    path = place / "config.json"
    stored = read_json(path) or {}
    scheduler = next((p for p in (folder / "scheduler", place, folder) if (p / "scheduler_config.json").is_file()), None)
    where = f"{scheduler / 'scheduler_config.json' if scheduler else folder}"
    noise_config = read_json(scheduler / "scheduler_config.json") if scheduler else None
    training = read_scheduler(noise_config, given, where=where)
    choices = Choices(given)
    try:
        config, ignored = _complete(stored)
        _check_times(config, training)
        label, shape = _label(config, choices), _event_shape(config, choices)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    config["negated"] = training.negated
    weights, files = read_weights(place)
    _check_weights(config, weights, place)
    facts: dict[str, Any] = {
        "family": "diffusers",
        "scheduler": noise_config.get("_class_name") if noise_config else None,
        "weights": files,
        **{key: noise_config[key] for key in ("clip_sample", "thresholding") if noise_config and key in noise_config},
        "learned_variance": config["out_channels"] == 2 * config["in_channels"],
        "ignored": ignored,
    }
    spec = NetworkSpec(
        architecture="UNet2DModel",
        config=config,
        event_shape=shape,
        predicts=training.predicts,
        schedule=training.schedule,
        time_scale=training.time_scale,
        sigma_data=training.sigma_data,
        label=label,
        unit_range=training.unit_range,
        facts=facts,
        assumed={**training.assumed, **choices.assumed},
    )
    return Checkpoint(spec, weights)


def download(hub_id: str) -> Path:
    """Return the local folder of ``"owner/name"`` on the Hugging Face hub, downloaded where it is not there yet.

    The configurations come first, so that what is not supported is refused before its weights are fetched. Of these,
    ``.bin`` files are fetched only where there is no ``.safetensors``, and nothing else of the repository at all.

    Raises:
        ValueError: If the repository holds no network that :func:`read_folder` can read.
        OSError: If it cannot be had: no such repository, no access, no connection.
        ImportError: If diffusers is not installed.
    """
    unet2d_model()
    folder = _fetch(hub_id, list(CONFIGS))
    place = _find_network(folder)
    if place is None:
        raise ValueError(f"{hub_id}: holds no network of diffusers: neither model_index.json nor a config.json of it.")
    prefix = "" if place == folder else f"{place.name}/"
    for variant, ending in KINDS:
        whole, shards = (f"{prefix}{WEIGHTS}{variant}{part}.{ending}" for part in ("", "-*"))
        folder = _fetch(hub_id, [*CONFIGS, whole, shards])
        if (folder / whole).is_file() or any(folder.glob(shards)):
            return folder
    raise ValueError(f"{hub_id}: has no weights: expected {prefix}{WEIGHTS}.safetensors or .bin.")


def _fetch(hub_id: str, patterns: list[str]) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=patterns))
    except Exception as error:  # The hub's client fails in a dozen ways that have no ancestor in common.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise OSError(f"{hub_id}: could not be had from the Hugging Face hub ({type(error).__name__}: {reason})") from error


def _find_network(folder: Path) -> Path | None:
    """Return where the network of a folder is, ``None`` if nothing speaks of one; refuse what is not supported."""
    index = read_json(folder / "model_index.json")
    if index is not None:
        _check_pipeline(index, folder / "model_index.json")
    inner = folder / "unet"
    nested = (inner / "config.json").is_file() or (inner.is_dir() and not (folder / "config.json").is_file())
    place = inner if nested else folder
    path = place / "config.json"
    config = read_json(path)
    if config is None or "_class_name" not in config:
        if index is None and not any(place.glob(f"{WEIGHTS}*")):
            return None
        missing = "is missing" if config is None else "does not name its _class_name"
        raise ValueError(f"{path}: {missing}. Expected that of a UNet2DModel. Copy the folder again.")
    name = config["_class_name"]
    if config.get("auto_map"):
        raise ValueError(f"{path}: names code of its own (auto_map: {str(config['auto_map'])[:80]}), never run.")
    if name != "UNet2DModel":
        other = "Other classes are not read, and no code beside weights is run: expected a UNet2DModel"
        reason = NO_LATENTS if re.search("Condition|Autoencoder|VQ|Transformer|Text", str(name)) else other
        raise ValueError(f"{path}: is of a {str(name)[:80]}. {reason}.")
    return place


def _check_pipeline(index: Mapping[str, Any], path: Path) -> None:
    name = index.get("_class_name")
    if not isinstance(name, str):
        raise ValueError(f"{path}: is of the custom pipeline {str(name)[:80]}, whose code is never run.")
    parts = {key: entry for key, entry in index.items() if key[:1] != "_" and isinstance(entry, list) and any(entry)}
    unet = parts.get("unet", ["diffusers", "UNet2DModel"])
    if not parts.keys() <= {"unet", "scheduler"} or unet == ["diffusers", "UNet2DConditionModel"]:
        raise ValueError(f"{path}: is of a {name} made of {', '.join(sorted(parts))[:200]}. {NO_LATENTS}.")
    for key, entry in parts.items():
        if entry[0] not in ("diffusers", "deprecated"):  # a folder of the package, which it writes of KarrasVeScheduler
            raise ValueError(f"{path}: its {key} is {'.'.join(map(str, entry))[:80]}, code outside of diffusers, never run.")
    if unet != ["diffusers", "UNet2DModel"]:
        raise ValueError(f"{path}: its unet is a {'.'.join(map(str, unet[1:]))[:80]}, expected a UNet2DModel.")


def _complete(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return every argument of the network, by the package's defaults where silent, and the names it does not know."""
    known = inspect.signature(unet2d_model().__init__).parameters
    complete = {key: config.get(key, p.default) for key, p in known.items() if key != "self"}
    complete = {key: list(value) if isinstance(value, tuple) else value for key, value in complete.items()}
    for key, expected in {"down_block_types": DOWN, "up_block_types": UP}.items():
        blocks = complete[key]
        wrong = [b for b in blocks if str(b).removeprefix("UNetRes") not in expected] if isinstance(blocks, list) else [blocks]
        if wrong:
            raise ValueError(f"{key} {str(wrong[0])[:80]!r} is not supported, expected {', '.join(expected)}.")
    channels, outputs = (whole(1, 4096)(key, complete[key]) for key in ("in_channels", "out_channels"))
    if outputs not in (channels, 2 * channels):
        raise ValueError(
            f"the network maps {channels} channels to {outputs}, so it is no denoiser alone: expected as many, or "
            "twice as many where it returns a variance too. Networks conditioned on an image are not supported."
        )
    return complete, sorted(key for key in config if key not in known and key[:1] != "_")


def _check_times(config: Mapping[str, Any], training: Training) -> None:
    told_levels = training.unit_range or training.schedule["name"] == "rectified-flow"
    if config["time_embedding_type"] == "fourier" and not told_levels:
        raise ValueError(
            "time_embedding_type 'fourier' takes the logarithm of a noise level, and the scheduler tells none. "
            "Expected the scheduler_config.json of a ScoreSdeVeScheduler beside it."
        )


def _label(config: Mapping[str, Any], choices: Choices) -> int | None:
    kind, classes = config["class_embed_type"], config["num_class_embeds"]
    if kind == "identity":
        raise ValueError("class_embed_type 'identity' takes vectors instead of classes, which is not supported.")
    if kind == "timestep":
        return choices.label(2**31)  # any number is a class
    return choices.label(whole(1, 2**31)("num_class_embeds", classes) if kind is None and classes is not None else None)


def _event_shape(config: Mapping[str, Any], choices: Choices) -> tuple[int | None, ...]:
    name, channels = "image_size" if "image_size" in choices.given else "sample_size", int(config["in_channels"])
    size = choices.given.get(name, config["sample_size"])
    if size is None:
        choices.assumed["image_size"] = "any (config.json has no sample_size)"
        return channels, None, None
    sides = size if isinstance(size, list) and len(size) == 2 else [size, size]
    return channels, *(whole(1, 2**16)(name, side) for side in sides)


def _check_weights(config: Mapping[str, Any], weights: Mapping[str, Tensor], place: Path) -> None:
    try:
        with torch.device("meta"):
            expected = {key: tuple(t.shape) for key, t in DiffusersUNet(**config).state_dict().items()}
    except ImportError:
        raise
    except Exception as error:  # The package checks little: nonsense fails wherever it is first used.
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{place / 'config.json'}: describes no network that diffusers can build ({reason}).") from error
    found = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if wrong:
        key = wrong[0]
        raise ValueError(
            f"{place}: the weights do not fit config.json: {len(wrong)} of {len(expected)} differ, first {key}: "
            f"{found.get(key, 'missing')}, expected {expected.get(key, 'none')}. Copy the folder again."
        )
