"""What a pipeline in a folder holds, from its descriptions and the headers of its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from invdiff.priors.checkpoints.diffusers_scheduler import read_scheduler
from invdiff.priors.checkpoints.diffusers_weights import read_json
from invdiff.priors.digest import digest
from invdiff.priors.pipelines.load import family_of, options_of
from invdiff.priors.pipelines.options import Options
from invdiff.priors.pipelines.parts import INDEX

__all__ = ["describe_pipeline"]

NETWORKS = ("unet", "transformer", "decoder")  # that denoise
AUTOENCODERS = ("vae", "vqvae")


def describe_pipeline(folder: Path, index: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a pipeline holds: its parts with their classes and sizes, images, codes, schedule, and options.

    Raises:
        ValueError: If the pipeline is not supported, there is no option of a name in ``given``, or a description is damaged.
    """
    family = family_of(index, folder / INDEX)
    Options(given, options_of(family), str(index["_class_name"]))
    entries = {name: entry for name, entry in index.items() if name[:1] != "_" and isinstance(entry, list)}
    parts = {name: entry for name, entry in entries.items() if len(entry) == 2 and entry[1]}
    used = {name: _part(folder / name, entry) for name, entry in parts.items() if name in family.NETWORKS}
    network = next((name for name in NETWORKS if name in used), "")
    config, codes = read_json(folder / network / "config.json") or {}, next((n for n in AUTOENCODERS if n in used), None)
    scheduler = "decoder_scheduler" if "decoder_scheduler" in used else "scheduler"
    stored = read_json(folder / scheduler / "scheduler_config.json")
    known = None if stored is None or stored.get("_class_name") == "UnCLIPScheduler" else stored
    training = read_scheduler(known, {}, where=str(folder / scheduler)) if known is not None else None
    blocks = [1] if codes is None else (read_json(folder / codes / "config.json") or {}).get("block_out_channels") or [1]
    factor = 2 ** (len(blocks) - 1)
    size = config.get("sample_size")
    return {
        "name": folder.name,
        "family": str(index["_class_name"]),
        "conditioned on": "a text" if "prompt" in family.OPTIONS else "a class" if "label" in family.OPTIONS else "nothing",
        "parts": used,
        "unread": sorted(parts.keys() - used.keys()),
        "images": f"{size * factor} x {size * factor} pixels" if isinstance(size, int) else None,
        "pixels per code": factor if codes is not None else None,
        "predicts": None if training is None else training.predicts,
        "schedule": None if training is None else {k: v for k, v in training.schedule.items() if k != "betas"},
        "file": str(folder),
        "sha256": digest(folder),
        "options": options_of(family),
        "notes": [],
        "assumed": {},
    }


def _part(place: Path, entry: Any) -> str:
    """Return the class, the number of parameters and the precision of a part."""
    count, dtypes = 0, set()
    for file in sorted(place.glob("*.safetensors")):
        if ".fp16." in file.name and any(".fp16." not in other.name for other in place.glob("*.safetensors")):
            continue
        try:
            with safe_open(str(file), "pt") as opened:
                for key in opened.keys():  # noqa: SIM118 - it is no dictionary
                    piece = opened.get_slice(key)
                    count += math.prod(piece.get_shape())
                    dtypes.add(str(piece.get_dtype()))
        except Exception as error:  # The errors of the library have no common base class.
            raise ValueError(f"{file}: is damaged ({' '.join(str(error).split())[:120]}). Copy the folder again.") from error
    sized = f", {count:,} parameters, {' '.join(sorted(dtypes))}" if count else ""
    return f"{entry[1]}{sized}"
