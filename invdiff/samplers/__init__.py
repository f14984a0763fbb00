"""Loops and step rules that carry noise to samples. One a file."""

from invdiff.samplers.ddim import DDIM
from invdiff.samplers.heun import Heun
from invdiff.samplers.reverse import DivergenceError, reverse_diffusion
from invdiff.samplers.unconditional import sample_prior

__all__ = ["DDIM", "DivergenceError", "Heun", "reverse_diffusion", "sample_prior"]
