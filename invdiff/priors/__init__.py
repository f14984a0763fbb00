"""Priors p(x): denoisers along a noise schedule, analytic or learned."""

from invdiff.priors.base import ScoreModel
from invdiff.priors.files import load_prior, save_prior
from invdiff.priors.gaussian import Gaussian
from invdiff.priors.mixture import GaussianMixture
from invdiff.priors.network import NetworkPrior, from_network
from invdiff.priors.unet import UNet

__all__ = [
    "Gaussian",
    "GaussianMixture",
    "NetworkPrior",
    "ScoreModel",
    "UNet",
    "from_network",
    "load_prior",
    "save_prior",
]
