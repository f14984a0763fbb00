"""Measurement operators: ``y = A(x) + n``. One operator a file; ``base`` holds what they share."""

if __name__ != "invdiff.operators":
    raise ImportError("Import this folder as invdiff.operators: under its own name its classes would exist twice.")

from .adapters import from_deepinv, from_linear_operator
from .affine import Affine
from .base import Jacobian, LinearOperator, Operator
from .blur import Blur
from .channels import ChannelMix
from .clip import Clip
from .composition import compose
from .correlated_noise import CorrelatedNoise, CovarianceNoise
from .crop import Crop
from .cumulative_sum import CumulativeSum
from .differences import FiniteDifferences
from .downsample import Downsample
from .fourier import FourierMask
from .function import Function, LinearFunction
from .gamma import Gamma
from .hadamard import Hadamard, walsh_order
from .identity import Identity
from .jpeg import JPEG
from .jpeg_coefficients import JPEGCoefficients
from .kernels import defocus_kernel, gaussian_kernel, motion_kernel
from .mask import Mask
from .masks import box_mask, random_mask, stripe_mask
from .matrix import Matrix
from .mosaic import Mosaic
from .mri import MRI, birdcage_maps, cartesian_mask
from .network import NetworkOperator
from .noise import GaussianNoise, Noise
from .optics import psf_kernel
from .per_channel import per_channel
from .per_item import per_item
from .phase import CodedDiffraction, Magnitude, PhaseRetrieval
from .photon_noise import PoissonGaussianNoise, PoissonNoise
from .quantise import Quantise
from .random_convolution import RandomConvolution
from .resize import Resize
from .robust_noise import LaplaceNoise, StudentNoise
from .rounding_noise import RoundingNoise
from .shared_noise import share
from .stacked import stack
from .subsampled_convolution import SubsampledConvolution
from .tomography import FanBeamCT, ParallelBeamCT
from .varying_blur import VaryingBlur
from .whitened import linearise, whiten

__all__ = [  # noqa: RUF022 - in plain order
    "Affine",
    "Blur",
    "ChannelMix",
    "Clip",
    "CodedDiffraction",
    "CorrelatedNoise",
    "CovarianceNoise",
    "Crop",
    "CumulativeSum",
    "Downsample",
    "FanBeamCT",
    "FiniteDifferences",
    "FourierMask",
    "Function",
    "Gamma",
    "GaussianNoise",
    "Hadamard",
    "Identity",
    "JPEG",
    "JPEGCoefficients",
    "Jacobian",
    "LaplaceNoise",
    "LinearFunction",
    "LinearOperator",
    "MRI",
    "Magnitude",
    "Mask",
    "Matrix",
    "Mosaic",
    "NetworkOperator",
    "Noise",
    "Operator",
    "ParallelBeamCT",
    "PhaseRetrieval",
    "PoissonGaussianNoise",
    "PoissonNoise",
    "Quantise",
    "RandomConvolution",
    "Resize",
    "RoundingNoise",
    "StudentNoise",
    "SubsampledConvolution",
    "VaryingBlur",
    "birdcage_maps",
    "box_mask",
    "cartesian_mask",
    "compose",
    "defocus_kernel",
    "from_deepinv",
    "from_linear_operator",
    "gaussian_kernel",
    "linearise",
    "motion_kernel",
    "per_channel",
    "per_item",
    "psf_kernel",
    "random_mask",
    "share",
    "stack",
    "stripe_mask",
    "walsh_order",
    "whiten",
]
