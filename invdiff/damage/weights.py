"""The fitted networks of this package and what was chosen with them."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from invdiff.damage.network import Detector

__all__ = ["FILE", "detectors"]

FILE = Path(__file__).with_name("detectors.safetensors")


@functools.cache
def detectors() -> tuple[Detector, Detector, dict[str, Any]]:
    """Return the network that sees the picture alone, the one that sees the prior's prediction too, and facts of the fit."""
    with safe_open(FILE, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
        weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a mapping
    nets = []
    for name in ("first", "second"):
        own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        net = Detector(facts[name]["channels"], len(facts["classes"]))
        net.load_state_dict(own)
        nets.append(net.eval().requires_grad_(False))
    return nets[0], nets[1], facts
