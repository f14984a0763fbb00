"""Posterior sampling: the sampler, its result, and the callback interface."""

from invdiff.posterior.chi_square import chi_square
from invdiff.posterior.estimate import Estimate
from invdiff.posterior.misfit import MisfitWarning
from invdiff.posterior.particles import Particles
from invdiff.posterior.recommended import QUALITIES, recommended
from invdiff.posterior.result import Posterior
from invdiff.posterior.sampler import PosteriorSampler
from invdiff.posterior.step import Step
from invdiff.posterior.windows import Window

__all__ = [
    "QUALITIES",
    "Estimate",
    "MisfitWarning",
    "Particles",
    "Posterior",
    "PosteriorSampler",
    "Step",
    "Window",
    "chi_square",
    "recommended",
]
