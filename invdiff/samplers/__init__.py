"""Loops and step rules that carry noise to samples. One a file."""

from invdiff.samplers.base import DivergenceError, Sampler
from invdiff.samplers.daps import DAPS
from invdiff.samplers.ddim import DDIM
from invdiff.samplers.fps import FPS
from invdiff.samplers.heun import Heun
from invdiff.samplers.langevin import Langevin
from invdiff.samplers.matched import Matched
from invdiff.samplers.mcg_diff import MCGdiff
from invdiff.samplers.mm_tsmc import MMTSMC
from invdiff.samplers.particles import ParticleMethod
from invdiff.samplers.pnp_dm import PnPDM
from invdiff.samplers.red_diff import REDdiff
from invdiff.samplers.repaint import RePaint
from invdiff.samplers.reverse import reverse_diffusion
from invdiff.samplers.snips import SNIPS
from invdiff.samplers.tds import TDS
from invdiff.samplers.unconditional import sample_prior

__all__ = [
    "DAPS",
    "DDIM",
    "FPS",
    "MMTSMC",
    "SNIPS",
    "TDS",
    "DivergenceError",
    "Heun",
    "Langevin",
    "MCGdiff",
    "Matched",
    "ParticleMethod",
    "PnPDM",
    "REDdiff",
    "RePaint",
    "Sampler",
    "reverse_diffusion",
    "sample_prior",
]
