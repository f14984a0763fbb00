"""What was fitted to photographs with synthetic damage: the network, and what the prior's surprise counts for."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from invdiff.damage.network import FEATURES, Detector

__all__ = ["FILE", "fitted"]

FILE = Path(__file__).with_name("detector.safetensors")


@functools.cache
def fitted() -> tuple[Detector, Tensor, dict[str, Any]]:
    """Return the network, the weights of the signs of :mod:`invdiff.damage.surprise`, and facts about the fit."""
    with safe_open(FILE, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
        weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a mapping
    surprise = weights.pop("surprise")
    net = Detector(3 + FEATURES, len(facts["classes"]))
    net.load_state_dict(weights)
    return net.eval().requires_grad_(False), surprise, facts
