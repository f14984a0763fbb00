"""Step rules, and the loop of the reverse diffusion that takes them. One a file."""

from invdiff.methods.steps.ddim import DDIM
from invdiff.methods.steps.heun import Heun
from invdiff.methods.steps.matched import Matched
from invdiff.methods.steps.prior_samples import sample_prior
from invdiff.methods.steps.reverse import reverse_diffusion

__all__ = ["DDIM", "Heun", "Matched", "reverse_diffusion", "sample_prior"]
