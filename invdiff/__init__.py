"""Zero-shot posterior sampling for inverse problems with diffusion priors.

>>> import invdiff
>>> invdiff.__version__
'0.1.0'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invdiff import (
        blind,
        diagnostics,
        methods,
        metrics,
        operators,
        posterior,
        presets,
        priors,
        problems,
        restoration,
        schedules,
        training,
    )
    from invdiff.blind import BlindSampler
    from invdiff.methods.samplers import DivergenceError
    from invdiff.posterior import Posterior, PosteriorSampler
    from invdiff.priors import load_prior
    from invdiff.restoration import Restoration, restore

__version__ = "0.1.0"

# Names are loaded on first use, so that the command line answers --help without importing torch.
_MODULES = {
    *("blind", "diagnostics", "methods", "metrics", "operators", "posterior", "presets", "priors", "problems", "restoration"),
    *("schedules", "training"),
}
_NAMES = {
    "BlindSampler": "invdiff.blind",
    "DivergenceError": "invdiff.methods.samplers",
    "Posterior": "invdiff.posterior",
    "PosteriorSampler": "invdiff.posterior",
    "Restoration": "invdiff.restoration",
    "load_prior": "invdiff.priors",
    "restore": "invdiff.restoration",
}

__all__ = [
    "BlindSampler",
    "DivergenceError",
    "Posterior",
    "PosteriorSampler",
    "Restoration",
    "blind",
    "diagnostics",
    "load_prior",
    "methods",
    "metrics",
    "operators",
    "posterior",
    "presets",
    "priors",
    "problems",
    "restoration",
    "restore",
    "schedules",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"invdiff.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'invdiff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
