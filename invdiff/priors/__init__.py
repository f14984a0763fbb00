"""Priors p(x): denoisers along a noise schedule, analytic or learned."""

from invdiff.priors.base import ScoreModel
from invdiff.priors.channels import Grey, PerChannel
from invdiff.priors.error_covariance import ErrorCovariance, ErrorModel
from invdiff.priors.error_files import read_error_model, save_error_model
from invdiff.priors.files import save_prior
from invdiff.priors.fit import fit
from invdiff.priors.gaussian import Gaussian
from invdiff.priors.load import load_prior
from invdiff.priors.measure import measure_error
from invdiff.priors.mixture import GaussianMixture
from invdiff.priors.network import NetworkPrior, from_network
from invdiff.priors.tiled import Tiled
from invdiff.priors.unet import UNet

__all__ = [
    "ErrorCovariance",
    "ErrorModel",
    "Gaussian",
    "GaussianMixture",
    "Grey",
    "NetworkPrior",
    "PerChannel",
    "ScoreModel",
    "Tiled",
    "UNet",
    "fit",
    "from_network",
    "load_prior",
    "measure_error",
    "read_error_model",
    "save_error_model",
    "save_prior",
]
