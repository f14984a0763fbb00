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
        damage,
        diagnostics,
        evaluation,
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
    from invdiff.restoration import Proposal, Restoration, propose_mask, restore

__version__ = "0.1.0"

# Names are loaded on first use, so that the command line answers --help without importing torch.
_MODULES = {
    *("blind", "damage", "diagnostics", "evaluation", "methods", "metrics", "operators", "posterior", "presets", "priors"),
    *("problems", "restoration", "schedules", "training"),
}
_NAMES = {
    "BlindSampler": "invdiff.blind",
    "DivergenceError": "invdiff.methods.samplers",
    "Posterior": "invdiff.posterior",
    "PosteriorSampler": "invdiff.posterior",
    "Proposal": "invdiff.restoration",
    "Restoration": "invdiff.restoration",
    "load_prior": "invdiff.priors",
    "propose_mask": "invdiff.restoration",
    "restore": "invdiff.restoration",
}

__all__ = [
    "BlindSampler",
    "DivergenceError",
    "Posterior",
    "PosteriorSampler",
    "Proposal",
    "Restoration",
    "blind",
    "damage",
    "diagnostics",
    "evaluation",
    "load_prior",
    "methods",
    "metrics",
    "operators",
    "posterior",
    "presets",
    "priors",
    "problems",
    "propose_mask",
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
