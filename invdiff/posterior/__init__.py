"""Posterior sampling: the sampler, its result, and the callback interface."""

from invdiff.posterior.chi_square import chi_square
from invdiff.posterior.misfit import MisfitWarning
from invdiff.posterior.recommended import QUALITIES, recommended
from invdiff.posterior.result import Particles, Posterior
from invdiff.posterior.sampler import PosteriorSampler
from invdiff.posterior.step import Step

__all__ = ["QUALITIES", "MisfitWarning", "Particles", "Posterior", "PosteriorSampler", "Step", "chi_square", "recommended"]
