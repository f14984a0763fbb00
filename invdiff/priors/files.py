"""Priors in files: ``load_prior`` reads a name or a path, ``save_prior`` writes a trained network.

A file is safetensors: half-precision weights, and in its metadata the architecture and the facts of the training.
Reading one builds tensors and nothing else; formats that can carry code are refused unread.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from invdiff.priors.network import NetworkPrior, from_network
from invdiff.priors.unet import UNet
from invdiff.schedules import EDM

__all__ = ["BUNDLED", "has_bfloat16_units", "load_network", "load_prior", "read_facts", "save_prior"]

BUNDLED = {"natural": Path(__file__).with_name("natural.safetensors")}
PRECISIONS = ("auto", "float32", "bfloat16")


def save_prior(net: UNet, path: Path, *, sigma_data: float, facts: Mapping[str, Any]) -> None:
    """Write the weights of ``net`` in half precision, with what ``load_prior`` needs to rebuild it, atomically."""
    description = {"architecture": "UNet", "config": net.config, "sigma_data": sigma_data, "facts": dict(facts)}
    weights = {name: tensor.detach().cpu().half().contiguous() for name, tensor in net.state_dict().items()}
    part = path.with_name(path.name + ".part")
    try:
        save_file(weights, part, metadata={"invdiff": json.dumps(description)})
        part.chmod(0o644)  # safetensors keeps its files from other users; a prior is for sharing
        part.replace(path)
    except (SafetensorError, OSError) as error:
        part.unlink(missing_ok=True)
        raise OSError(f"{path}: the weights could not be written ({error}).") from error


def load_prior(source: str | Path, *, precision: str = "auto", device: torch.device | str = "cpu") -> NetworkPrior:
    """Return the prior of a name (``"natural"``) or of a ``.safetensors`` file written by ``invdiff train``.

    Args:
        source: A bundled name or a path. A name wins over a file of the same name; write ``./natural`` for the file.
        precision: ``float32``; ``bfloat16`` for the network's convolutions (the solver's state stays float32); ``auto``
            takes bfloat16 where ``device`` has matrix units for it, float32 elsewhere.
        device: Where the prior will run. It follows the measurement; this only decides ``auto``.

    Raises:
        ValueError: If nothing is there by that name, or the file is not one of ours.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"load_prior: unknown precision {precision!r}, expected one of {', '.join(PRECISIONS)}.")
    net, description = load_network(source)
    path = BUNDLED.get(str(source), Path(source))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    fast = precision == "bfloat16" or (precision == "auto" and has_bfloat16_units(torch.device(device)))
    return from_network(
        net.to(memory_format=torch.channels_last).eval(),  # type: ignore[call-overload,unused-ignore]
        EDM(),
        predicts="edm",
        event_shape=(net.config["channels"], None, None),
        sigma_data=description["sigma_data"],
        autocast=torch.bfloat16 if fast else None,
        facts={"name": str(source), "file": path.name, "sha256": digest, **description["facts"]},
    )


def load_network(source: str | Path) -> tuple[UNet, dict[str, Any]]:
    """Return the network of a prior in float32, and what its file says: ``config``, ``sigma_data`` and ``facts``."""
    path = BUNDLED.get(str(source), Path(source))
    description = _describe(path, str(source))
    try:
        net = UNet(**description["config"])
        net.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except (RuntimeError, TypeError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: the weights do not fit the architecture the file names: {reason}") from error
    return net, description


def read_facts(source: str | Path) -> dict[str, Any]:
    """Return what the file says about the training of a prior, without building the network."""
    facts: dict[str, Any] = _describe(BUNDLED.get(str(source), Path(source)), str(source))["facts"]
    return facts


def _describe(path: Path, source: str) -> dict[str, Any]:
    names = ", ".join(BUNDLED)
    if not path.is_file():
        raise ValueError(f"Unknown prior {source!r}: expected one of {names}, or the path of a .safetensors file.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{source}: not a safetensors file ({error}). Pickled checkpoints can run code when read and are refused; "
            "wrap the network in Python with invdiff.priors.from_network."
        ) from error
    try:
        description = json.loads(metadata.get("invdiff", "null"))
    except ValueError:
        description = None
    kinds: dict[str, type | tuple[type, ...]] = {"config": dict, "sigma_data": (int, float), "facts": dict}
    if (
        not isinstance(description, dict)
        or description.get("architecture") != "UNet"
        or not all(isinstance(description.get(name), kind) for name, kind in kinds.items())
    ):
        raise ValueError(
            f"{source}: a safetensors file, but not one written by `invdiff train`: its metadata names no architecture "
            "known here. Wrap the network in Python with invdiff.priors.from_network."
        )
    return description


def has_bfloat16_units(device: torch.device) -> bool:
    """Return whether ``device`` computes convolutions faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    # A private name, so asked for with care: without it the answer is the safe one.
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
