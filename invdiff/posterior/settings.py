"""What determined a run: the settings in ``post.options`` and the circumstances in ``post.origin``, as plain values."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

import invdiff
from invdiff.methods.options import options_of
from invdiff.methods.resolve import ResolvedMethod
from invdiff.operators import Operator
from invdiff.priors import ScoreModel

__all__ = ["plain", "resolved_options", "run_origin", "short_name", "versions"]

LONGEST = 500  # characters of the text of an object


def resolved_options(plan: ResolvedMethod) -> dict[str, Any]:
    """Return the options of the algorithm with all defaults."""
    usual = {name: p.default for name, p in options_of(plan.method.algorithm).items() if p.default is not p.empty}
    return {name: plain(value) for name, value in {**usual, **plan.options}.items()}


def run_origin(score: ScoreModel, op: Operator, y: Tensor) -> dict[str, Any]:
    """Return the prior, the operator, the digest of the measurement, device, dtype and versions of a run."""
    values = y.detach().contiguous().cpu()
    digest = hashlib.sha256(values.numpy().tobytes()).hexdigest()
    return {
        "prior": plain(score.describe()),
        "operator": short_name(op),
        "measurement": {"shape": list(y.shape), "sha256": digest},
        "dtype": str(y.dtype).removeprefix("torch."),
        "device": str(y.device),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    return {
        "invdiff": invdiff.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def plain(value: Any) -> Any:
    """Return a value as JSON has it: numbers, text, lists, dictionaries; of functions the name, of others the ``repr``."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.ndim == 0):
        return plain(value.item())
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    named = getattr(value, "__qualname__", None)  # of functions and classes, whose repr has an address
    return (named if isinstance(named, str) else repr(value))[:LONGEST]


def short_name(thing: object) -> str:
    """Return the ``repr`` of a prior or an operator, or its class name if it does not define one."""
    return type(thing).__name__ if type(thing).__repr__ is object.__repr__ else repr(thing)
