"""The file format of invdiff for priors: safetensors with the network spec in its metadata, read without executing code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from invdiff.io.images import atomic_write
from invdiff.priors.checkpoints.container import Contents
from invdiff.priors.checkpoints.pickles import plain
from invdiff.priors.networks.unet import UNet
from invdiff.priors.noise_maps import MAP_KINDS
from invdiff.priors.spec import Checkpoint, NetworkSpec

__all__ = ["BUNDLED", "KEY", "WIDEST_HOLES", "read", "read_metadata", "save_checkpoint", "save_prior", "write_safetensors"]

BUNDLED = {"natural": Path(__file__).with_name("natural.safetensors")}
WIDEST_HOLES = {"natural": 32}  # in pixels, by eye: invdiff/priors/natural.md
KEY = "invdiff"  # the metadata entry of the spec
LARGEST_HEADER = 10**8  # bytes, the limit of the format
OPTIONS: Mapping[str, str] = {}


def save_prior(net: UNet, path: Path, *, sigma_data: float, facts: Mapping[str, Any]) -> None:
    """Write the weights of ``net`` in half precision and the spec from which ``load_prior`` rebuilds it, atomically."""
    spec = _spec_of_unet(net.config, sigma_data, facts)
    save_checkpoint(Checkpoint(spec, net.state_dict()), path, dtype=torch.float16)


def save_checkpoint(checkpoint: Checkpoint, path: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a checkpoint as safetensors, atomically, in the precision of its weights or in ``dtype``."""
    weights = {
        name: weight.detach().cpu().to(dtype if weight.is_floating_point() else None).contiguous()
        for name, weight in checkpoint.weights.items()
    }
    if dtype is not None and not all(w.isfinite().all() for w in weights.values() if w.dtype == dtype):
        raise ValueError(
            f"{path}: some weights are not finite in {dtype}: nothing was written. Keep their precision, or use bfloat16."
        )
    write_safetensors(weights, path, {KEY: json.dumps(checkpoint.spec.to_json())})


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata to a safetensors file, atomically.

    Raises:
        OSError: If the file cannot be written. An existing file is then left unchanged.
    """
    try:
        with atomic_write(path) as part:
            save_file(dict(tensors), part, metadata=dict(metadata))
    except (SafetensorError, OSError) as error:
        raise OSError(f"{path}: could not be written ({error}).") from error


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a safetensors file by key, of entries that hold JSON; empty for any other file."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size < LARGEST_HEADER else {}
        return {key: json.loads(text) for key, text in header.get("__metadata__", {}).items() if text.startswith("{")}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def read(contents: Contents, given: Mapping[str, Any]) -> Checkpoint | None:
    """Return the checkpoint in a file of this format; ``None`` for any other file."""
    if KEY not in contents.metadata:
        return None
    return Checkpoint(_spec(contents.path, contents.metadata), contents.data)


def _spec(path: Path, metadata: Mapping[str, str]) -> NetworkSpec:
    try:
        description = plain(json.loads(metadata[KEY]))
        if isinstance(description, dict) and description.keys() == {"architecture", "config", "sigma_data", "facts"}:
            # Files of version 0.1 support one architecture only.
            return _spec_of_unet(description["config"], description["sigma_data"], description["facts"])
        return NetworkSpec.from_json(description)
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: the file of invdiff is damaged, or of a later version: {reason}.") from error


def _spec_of_unet(config: Mapping[str, Any], sigma_data: float, facts: Mapping[str, Any]) -> NetworkSpec:
    return NetworkSpec(
        architecture="UNet",
        config=dict(config),
        event_shape=(config["channels"], None, None),
        predicts="edm",
        schedule={"name": "edm"},
        sigma_data=float(sigma_data),
        noise_kinds=MAP_KINDS if config.get("maps") else (),
        facts=dict(facts),
    )
