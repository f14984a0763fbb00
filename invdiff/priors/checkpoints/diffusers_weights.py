"""Read the JSON files and the weights of a diffusers folder, in one file or several."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from invdiff.priors.checkpoints.container import open_contents, state_dicts
from invdiff.priors.checkpoints.kinds import PULL, is_pointer

__all__ = ["KINDS", "TEXT_WEIGHTS", "WEIGHTS", "read_json", "read_weights"]

WEIGHTS = "diffusion_pytorch_model"
TEXT_WEIGHTS = {"safetensors": "model", "bin": "pytorch_model"}  # of transformers
LARGEST = 2**22  # bytes of a JSON file
KINDS = (("", "safetensors"), (".fp16", "safetensors"), ("", "bin"), (".fp16", "bin"))  # in the order of preference
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # from older versions of diffusers


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, or ``None`` if there is no file.

    Raises:
        ValueError: If the file is damaged.
    """
    if not path.is_file():
        return None
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if is_pointer(content):
        raise ValueError(f"{path}: is {PULL}.")
    if len(content) > LARGEST:
        raise ValueError(f"{path}: has more than {LARGEST:,} bytes, too many for a description. Copy the folder again.")
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: is damaged, not valid JSON ({reason}). Copy the folder again.") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: was not written by diffusers: expected a JSON object, got a {type(data).__name__}.")
    return data


def read_weights(place: Path, stems: Mapping[str, str] | None = None) -> tuple[dict[str, Tensor], str]:
    """Return the state dict in a folder, and the name of its file, or of the index that lists its files.

    Args:
        place: The folder.
        stems: Names of the files by their endings. Default: those of diffusers.

    Raises:
        ValueError: If there are no weights, or they are damaged, or in a format that could run code.
    """
    candidates = [
        name
        for variant, ending in KINDS
        for stem in [(stems or {}).get(ending, WEIGHTS)]
        for name in (f"{stem}{variant}.{ending}", f"{stem}.{ending}.index{variant}.json")
    ]
    name = next((name for name in candidates if (place / name).is_file()), None)
    if name is None:
        stem, other = ((stems or {}).get(ending, WEIGHTS) for ending in ("safetensors", "bin"))
        raise ValueError(f"{place}: has no weights: expected {stem}.safetensors or {other}.bin. Copy the folder again.")
    files = [name]
    if name.endswith(".json"):
        listed = (read_json(place / name) or {}).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise ValueError(f"{place / name}: lists no weights (no weight_map). Copy the folder again.")
        files = sorted({str(file) for file in listed.values()})
    weights: dict[str, Tensor] = {}
    for file in files:
        if Path(file).name != file:
            raise ValueError(f"{place / name}: names {file!r}, which is outside of the folder and is not read.")
        if not (place / file).is_file():
            raise ValueError(f"{place / name}: names {file}, which is missing. Copy the folder again.")
        found = next(state_dicts(open_contents(place / file).data, depth=1), None)
        if found is None:
            raise ValueError(f"{place / file}: holds no weights. Expected a dictionary of tensors.")
        weights.update({_renamed(key): tensor for key, tensor in found[1].items()})
    return weights, name


def _renamed(key: str) -> str:
    if key == "time_proj.W":
        return "time_proj.weight"
    return re.sub(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.", lambda match: f"{match[1]}.{RENAMED[match[2]]}.", key)
