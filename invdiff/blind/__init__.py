"""Blind deconvolution: the image and the kernel that blurred it."""

from invdiff.blind.families import DiscFamily, FreeFamily, GaussianFamily, LineFamily, ParametricFamily
from invdiff.blind.result import BlindPosterior
from invdiff.blind.sampler import BlindSampler

__all__ = [
    "BlindPosterior",
    "BlindSampler",
    "DiscFamily",
    "FreeFamily",
    "GaussianFamily",
    "LineFamily",
    "ParametricFamily",
]
