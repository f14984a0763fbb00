"""Priors p(x): denoisers along a noise schedule, analytic or learned."""

from invdiff.priors.adapters.adapt import adapt
from invdiff.priors.adapters.channels import Gray, PerChannel
from invdiff.priors.adapters.classifier_guided import ClassifierGuided
from invdiff.priors.adapters.complex import Complex
from invdiff.priors.adapters.rescaled import Rescaled
from invdiff.priors.adapters.slices import Slices
from invdiff.priors.adapters.thresholded import Thresholded
from invdiff.priors.adapters.tiled import Tiled
from invdiff.priors.analytic.gaussian import Gaussian
from invdiff.priors.analytic.mixture import GaussianMixture
from invdiff.priors.classifier_free import ClassifierFree
from invdiff.priors.errors.covariance import ErrorCovariance, ErrorModel
from invdiff.priors.errors.files import read_error_model, save_error_model
from invdiff.priors.errors.measure import measure_error
from invdiff.priors.latent import LatentPrior
from invdiff.priors.load import load_prior
from invdiff.priors.network import NetworkPrior, from_network
from invdiff.priors.networks.unet import UNet
from invdiff.priors.save import save_prior
from invdiff.priors.score_model import Reach, ScoreModel

__all__ = [
    "ClassifierFree",
    "ClassifierGuided",
    "Complex",
    "ErrorCovariance",
    "ErrorModel",
    "Gaussian",
    "GaussianMixture",
    "Gray",
    "LatentPrior",
    "NetworkPrior",
    "PerChannel",
    "Reach",
    "Rescaled",
    "ScoreModel",
    "Slices",
    "Thresholded",
    "Tiled",
    "UNet",
    "adapt",
    "from_network",
    "load_prior",
    "measure_error",
    "read_error_model",
    "save_error_model",
    "save_prior",
]
