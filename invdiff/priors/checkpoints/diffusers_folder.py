"""Diffusers folders, local or on the Hugging Face hub: a ``UNet2DModel``, alone or in a pipeline with its scheduler.

A folder is read as data, JSON and tensors. No code in the folder, and no code that it refers to, is run.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from invdiff.priors.checkpoints import diffusers_scheduler
from invdiff.priors.checkpoints.assumptions import Choices, whole
from invdiff.priors.checkpoints.diffusers_scheduler import Training, read_scheduler
from invdiff.priors.checkpoints.diffusers_weights import WEIGHTS, read_json, read_weights
from invdiff.priors.networks.skeleton import skeleton
from invdiff.priors.networks.unet2d import DiffusersUNet, unet2d_model
from invdiff.priors.spec import Checkpoint, NetworkSpec

__all__ = ["CONFIGS", "OPTIONS", "find_network", "read_folder"]

OPTIONS: Mapping[str, str] = {
    **diffusers_scheduler.OPTIONS,
    "label": "class to sample with a class-conditional network: a number from 0",
    "image_size": "side of the training images, if config.json has no sample_size",
}

CONFIGS = ("model_index.json", "config.json", "scheduler_config.json", f"{WEIGHTS}*.json", "unet*/*.json", "scheduler/*.json")
NETWORKS = ("unet_ema", "unet")  # folders of the network, in the order of preference
# Supported blocks of a UNet2DModel. Others need a text encoding, or do not exist.
BLOCKS = ("", "Attn", "Skip", "AttnSkip")
DOWN = (*(f"{kind}DownBlock2D" for kind in BLOCKS), "ResnetDownsampleBlock2D")
UP = (*(f"{kind}UpBlock2D" for kind in BLOCKS), "ResnetUpsampleBlock2D")
NO_PART = (
    "It is a part of a pipeline, of latent codes or conditioned on a text or an image: give the folder of the whole pipeline, "
    "with its model_index.json"
)


def read_folder(folder: Path, given: Mapping[str, Any]) -> Checkpoint | None:
    """Read the network of a diffusers folder; return ``None`` if nothing in the folder indicates diffusers.

    The folder holds ``config.json`` and weights, or ``unet/`` and ``scheduler/`` with a ``model_index.json``. Of ``unet/`` and
    ``unet_ema/``, as training writes them, the averaged weights of ``unet_ema/`` are read, unless ``folder`` is one of the two.
    Samplers of
    diffusers may clip the estimate of the image, or rescale it by its largest values. The prior never does, since a clipped
    denoiser does not correspond to the score of any density; ``clip_sample`` and ``thresholding`` are recorded in the facts.

    Args:
        folder: The folder of the network, or of the pipeline.
        given: Options by the names of :data:`OPTIONS`. They take precedence over the folder's configuration.

    Raises:
        ValueError: If a diffusers folder is damaged, of an unsupported kind, or needs an option.
        ImportError: If diffusers is not installed.
    """
    place = find_network(folder)
    if place is None:
        return None
    if place == folder and folder.name in NETWORKS:
        folder = folder.parent  # its scheduler is in a sibling folder
        if (folder / "model_index.json").is_file():
            _check_pipeline(read_json(folder / "model_index.json") or {}, folder / "model_index.json")
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
        "weights": files if place == folder else f"{place.name}/{files}",
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
    return Checkpoint(spec, weights, _which(place, folder))


def _which(place: Path, folder: Path) -> tuple[str, ...]:
    """Return a note if the folder has averaged weights and others."""
    if not all((folder / name / "config.json").is_file() for name in NETWORKS):
        return ()
    other = next(name for name in NETWORKS if name != place.name)
    which = "averaged" if place.name == NETWORKS[0] else "last, not the averaged"
    return (f"of {folder.name}/{place.name} and {folder.name}/{other}, the {which} weights of {place.name} are used",)


def find_network(folder: Path) -> Path | None:
    """Return the folder of the network, or ``None`` if there is no sign of one. Raise a ValueError if it is unsupported."""
    index = read_json(folder / "model_index.json")
    if index is not None:
        _check_pipeline(index, folder / "model_index.json")
    inner = next((folder / name for name in NETWORKS if (folder / name / "config.json").is_file()), folder / "unet")
    nested = (inner / "config.json").is_file() or (inner.is_dir() and not (folder / "config.json").is_file())
    place = inner if nested else folder
    path = place / "config.json"
    config = read_json(path)
    if config is None or "_class_name" not in config:
        if index is None and not any(place.glob(f"{WEIGHTS}*")):
            return None
        missing = "is missing" if config is None else "has no _class_name"
        raise ValueError(f"{path}: {missing}. Expected the configuration of a UNet2DModel. Copy the folder again.")
    name = config["_class_name"]
    if config.get("auto_map"):
        raise ValueError(f"{path}: refers to custom code (auto_map: {str(config['auto_map'])[:80]}), which is never run.")
    if name != "UNet2DModel":
        other = "Other classes are not supported, and no custom code is run: expected a UNet2DModel"
        reason = NO_PART if re.search("Condition|Autoencoder|VQ|Transformer|Text", str(name)) else other
        raise ValueError(f"{path}: belongs to the class {str(name)[:80]}. {reason}.")
    return place


def _check_pipeline(index: Mapping[str, Any], path: Path) -> None:
    name = index.get("_class_name")
    if not isinstance(name, str):
        raise ValueError(f"{path}: belongs to the custom pipeline {str(name)[:80]}, whose code is never run.")
    parts = {key: entry for key, entry in index.items() if key[:1] != "_" and isinstance(entry, list) and any(entry)}
    unet = parts.get("unet", ["diffusers", "UNet2DModel"])
    if not parts.keys() <= {"unet", "scheduler"} or unet == ["diffusers", "UNet2DConditionModel"]:
        raise ValueError(
            f"{path}: belongs to the class {name} made of {', '.join(sorted(parts))[:200]}. Expected a UNet2DModel."
        )
    for key, entry in parts.items():
        if entry[0] not in ("diffusers", "deprecated"):  # The package writes the folder "deprecated" for KarrasVeScheduler.
            raise ValueError(
                f"{path}: its {key} is {'.'.join(map(str, entry))[:80]}, which is outside of diffusers and not run."
            )
    if unet != ["diffusers", "UNet2DModel"]:
        raise ValueError(f"{path}: its unet is a {'.'.join(map(str, unet[1:]))[:80]}, expected a UNet2DModel.")


def _complete(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return every argument of the network, completed by the defaults of diffusers, and the names of unknown entries."""
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
            f"the network maps {channels} channels to {outputs}, so it is not a plain denoiser: expected as many outputs, or "
            "twice as many if it also returns a variance. Networks conditioned on an image are not supported."
        )
    return complete, sorted(key for key in config if key not in known and key[:1] != "_")


def _check_times(config: Mapping[str, Any], training: Training) -> None:
    told_levels = training.unit_range or training.schedule["name"] == "rectified-flow"
    if config["time_embedding_type"] == "fourier" and not told_levels:
        raise ValueError(
            "time_embedding_type 'fourier' takes the logarithm of a noise level, which the scheduler does not give. "
            "Expected the scheduler_config.json of a ScoreSdeVeScheduler beside it."
        )


def _label(config: Mapping[str, Any], choices: Choices) -> int | None:
    kind, classes = config["class_embed_type"], config["num_class_embeds"]
    if kind == "identity":
        raise ValueError("class_embed_type 'identity' takes vectors instead of classes, which is not supported.")
    if kind == "timestep":
        return choices.label(2**31)  # any whole number is a class
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
        net = skeleton(lambda: DiffusersUNet(**config), len(weights))
        expected = {key: tuple(t.shape) for key, t in net.state_dict().items()}
    except ImportError:
        raise
    except Exception as error:  # diffusers checks little: an invalid value fails wherever it is first used.
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{place / 'config.json'}: diffusers cannot build the network that it describes ({reason})."
        ) from error
    found = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if wrong:
        key = wrong[0]
        raise ValueError(
            f"{place}: the weights do not fit config.json: {len(wrong)} of {len(expected)} differ, first {key}: "
            f"{found.get(key, 'missing')}, expected {expected.get(key, 'none')}. Copy the folder again."
        )
