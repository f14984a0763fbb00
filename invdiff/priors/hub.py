"""Download the folder of a prior from the Hugging Face hub: descriptions first, then the weights that are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from invdiff.priors.checkpoints.diffusers_folder import CONFIGS, find_network
from invdiff.priors.checkpoints.diffusers_weights import KINDS, WEIGHTS
from invdiff.priors.networks.unet2d import unet2d_model
from invdiff.priors.pipelines.load import check_options, family_of, pipeline_index
from invdiff.priors.pipelines.parts import INDEX, library

__all__ = ["download"]

# Of a part of a pipeline, besides its weights: descriptions and vocabularies. Nothing in them is run.
DATA = ("*.json", "*.txt", "*.model")
TEXT_KINDS = (("model", "safetensors"), ("model.fp16", "safetensors"), ("pytorch_model", "bin"))  # weights of transformers


def download(hub_id: str, given: Mapping[str, Any] | None = None) -> Path:
    """Return the local folder of ``"owner/name"`` on the Hugging Face hub, downloading it if necessary.

    The configurations are downloaded first, so that unsupported networks are refused before their weights are downloaded.
    Weights in ``.bin`` files are downloaded only if there is no ``.safetensors``. No other files are downloaded.

    Args:
        hub_id: The repository.
        given: Options with which it will be loaded, if it will.

    Raises:
        ValueError: If the repository holds no network that can be read, or an option of a pipeline is unknown or missing.
        OSError: If the download fails: no such repository, no access, no connection.
        ImportError: If diffusers is not installed.
    """
    unet2d_model()
    folder = _fetch(hub_id, list(CONFIGS))
    if (index := pipeline_index(folder)) is not None:
        family = family_of(index, folder / INDEX)
        if given is not None:
            check_options(family, given, hub_id)
        return _pipeline(hub_id, family.NETWORKS, index)
    place = find_network(folder)
    if place is None:
        raise ValueError(f"{hub_id}: holds no diffusers network: neither model_index.json nor a config.json of diffusers.")
    prefix = "" if place == folder else f"{place.name}/"
    for variant, ending in KINDS:
        whole, shards = (f"{prefix}{WEIGHTS}{variant}{part}.{ending}" for part in ("", "-*"))
        folder = _fetch(hub_id, [*CONFIGS, whole, shards])
        if (folder / whole).is_file() or any(folder.glob(shards)):
            return folder
    raise ValueError(f"{hub_id}: has no weights: expected {prefix}{WEIGHTS}.safetensors or .bin.")


def _pipeline(hub_id: str, names: Sequence[str], index: Mapping[str, Any]) -> Path:
    """Download the parts of a pipeline that its family reads."""
    used = [name for name in names if isinstance(index.get(name), list) and any(index[name])]
    if any(name.startswith("text_encoder") for name in used):
        library("transformers")  # Before gigabytes are downloaded.
    described = [INDEX, *(f"{name}/{pattern}" for name in used for pattern in DATA)]
    folder = _fetch(hub_id, described)
    for name in used:
        if name.startswith("tokenizer") or name.endswith("scheduler"):
            continue
        text = name.startswith("text_encoder")
        kinds = TEXT_KINDS if text else [(f"{WEIGHTS}{variant}", ending) for variant, ending in KINDS]
        for stem, ending in kinds:
            whole, shards = (f"{name}/{stem}{part}.{ending}" for part in ("", "-*"))
            folder = _fetch(hub_id, [*described, whole, shards])
            if (folder / whole).is_file() or any(folder.glob(shards)):
                break
        else:
            raise ValueError(f"{hub_id}: its {name} has no weights: expected {name}/{kinds[0][0]}.safetensors or .bin.")
    return folder


def _fetch(hub_id: str, patterns: list[str]) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=patterns))
    except Exception as error:  # The errors of the hub's client have no common base class.
        reason = " ".join(str(error).split()).partition(" An error happened")[0][:120] or type(error).__name__
        raise OSError(
            f"{hub_id}: could not be downloaded from the hub ({type(error).__name__}: {reason}). No file or folder here has "
            "this name: check the spelling, and the connection."
        ) from error
