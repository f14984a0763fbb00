"""Posterior sampling: the sampler, its result, and the callback interface."""

from invdiff.posterior.chi_square import chi_square
from invdiff.posterior.misfit import MisfitWarning
from invdiff.posterior.result import Particles, Posterior
from invdiff.posterior.sampler import PosteriorSampler
from invdiff.posterior.step import Step
from invdiff.posterior.windows import Window

__all__ = ["MisfitWarning", "Particles", "Posterior", "PosteriorSampler", "Step", "Window", "chi_square"]
