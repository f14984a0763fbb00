"""Posterior samples of a measurement."""

from invdiff.posterior.sampler import Particles, Posterior, PosteriorSampler, misfit

__all__ = ["Particles", "Posterior", "PosteriorSampler", "misfit"]
