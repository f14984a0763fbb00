"""What the laws share: seeded noise, per-item norms, and the discovery of every class a law runs over."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from invdiff.linalg import dot, norm

__all__ = ["all_subclasses", "dot", "filled", "fingerprint", "norm", "randn"]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def all_subclasses(base: type) -> list[type]:
    """Return every concrete class of invdiff below ``base``: a new one is under the laws without being listed."""
    found = {cls: None for child in base.__subclasses__() for cls in (child, *all_subclasses(child))}
    concrete = (c for c in found if c.__module__.startswith("invdiff.") and not getattr(c, "__abstractmethods__", None))
    return sorted(concrete, key=lambda c: c.__name__)


def filled(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return a state dict of random weights that any implementation of the network can be given: each depends on its name."""
    weights = {}
    for name, shape in shapes.items():
        values = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        fan_in = torch.Size(shape)[1:].numel()
        one = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0  # of a normalisation
        weights[name] = one + values * (fan_in**-0.5 if len(shape) > 1 else 0.1)
    return weights


def fingerprint(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return a digest of the names and shapes of a state dict, whatever their order."""
    listing = "\n".join(f"{name} {tuple(shape)}" for name, shape in sorted(shapes.items()))
    return hashlib.sha256(listing.encode()).hexdigest()
