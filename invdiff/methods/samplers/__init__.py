"""Algorithms with their own loop: annealing, split Gibbs, variational, Langevin. One per file."""

from invdiff.methods.divergence import DivergenceError
from invdiff.methods.samplers.daps import DAPS
from invdiff.methods.samplers.langevin import Langevin
from invdiff.methods.samplers.latino import LATINO
from invdiff.methods.samplers.pnp_dm import PnPDM
from invdiff.methods.samplers.pnp_flow import PnPFlow
from invdiff.methods.samplers.red_diff import REDDiff
from invdiff.methods.samplers.repaint import RePaint
from invdiff.methods.samplers.resample import ReSample
from invdiff.methods.samplers.sampler import Sampler
from invdiff.methods.samplers.snips import SNIPS

__all__ = [
    "DAPS",
    "LATINO",
    "SNIPS",
    "DivergenceError",
    "Langevin",
    "PnPDM",
    "PnPFlow",
    "REDDiff",
    "RePaint",
    "ReSample",
    "Sampler",
]
