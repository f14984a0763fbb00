"""Sampling methods: the table of them, and the rooms they are in."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invdiff.methods.table import METHODS, RULES, Method

__all__ = ["METHODS", "RULES", "Method"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("invdiff.methods.table"), name)
    raise AttributeError(f"module 'invdiff.methods' has no attribute {name!r}")
