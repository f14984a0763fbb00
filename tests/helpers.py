"""What the laws share: seeded noise, per-item norms, and the discovery of every class a law runs over."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.linalg import dot, norm

__all__ = ["all_subclasses", "dot", "norm", "randn"]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def all_subclasses(base: type) -> list[type]:
    """Return every concrete class of invdiff below ``base``: a new one is under the laws without being listed."""
    found = {cls: None for child in base.__subclasses__() for cls in (child, *all_subclasses(child))}
    concrete = (c for c in found if c.__module__.startswith("invdiff") and not getattr(c, "__abstractmethods__", None))
    return sorted(concrete, key=lambda c: c.__name__)
