"""Scores of posterior samples against the truth, and distances between sets of images, as ``invdiff evaluate`` reports them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invdiff.evaluation.distribution import features, frechet_distance, kernel_distance
    from invdiff.evaluation.scores import PosteriorScores, crps, energy_score, posterior_scores

__all__ = [
    "PosteriorScores",
    "crps",
    "energy_score",
    "features",
    "frechet_distance",
    "kernel_distance",
    "posterior_scores",
]

# Names are loaded on first use, so that the command line answers --help without importing torch.
_PLACES = {
    **dict.fromkeys(("features", "frechet_distance", "kernel_distance"), "distribution"),
    **dict.fromkeys(("PosteriorScores", "crps", "energy_score", "posterior_scores"), "scores"),
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"invdiff.evaluation.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'invdiff.evaluation' has no attribute {name!r}")
