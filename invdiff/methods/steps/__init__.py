"""Step rules, one per file, and the reverse-diffusion loop that uses them."""

from invdiff.methods.steps.ddim import DDIM
from invdiff.methods.steps.heun import Heun
from invdiff.methods.steps.matched import Matched
from invdiff.methods.steps.prior_samples import sample_prior
from invdiff.methods.steps.reverse import reverse_diffusion
from invdiff.methods.steps.rule import StepRule
from invdiff.methods.steps.rules import RULES

__all__ = ["DDIM", "RULES", "Heun", "Matched", "StepRule", "reverse_diffusion", "sample_prior"]
