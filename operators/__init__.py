"""Measurement operators: ``y = A(x) + n``. One operator per file; ``core`` holds the shared base classes and helpers."""

if __name__ != "invdiff.operators":
    raise ImportError("Import this package as invdiff.operators. Under any other name its classes would exist twice.")

from .adapters import from_deepinv, from_linear_operator, from_mrpro
from .algebra.compose import compose
from .algebra.per_channel import per_channel
from .algebra.per_item import per_item
from .algebra.per_slice import per_slice
from .algebra.stack import stack
from .algebra.whiten import linearize, whiten
from .blur.blur import Blur
from .blur.kernels import defocus_kernel, gaussian_kernel, motion_kernel
from .blur.psf import psf_kernel
from .blur.strided_convolution import SubsampledConvolution
from .blur.varying_blur import VaryingBlur
from .core.noise import GaussianNoise, Noise
from .core.operator import Jacobian, LinearOperator, Operator
from .generic.affine import Affine
from .generic.decoder import Decoder
from .generic.function import Function, LinearFunction
from .generic.identity import Identity
from .generic.matrix import Matrix
from .noise.correlated import CorrelatedNoise, CovarianceNoise
from .noise.heavy_tailed import LaplaceNoise, StudentNoise
from .noise.poisson import PoissonGaussianNoise, PoissonNoise
from .noise.rounding import RoundingNoise
from .noise.tempered import temper
from .noise.transmission import TransmissionNoise
from .nonlinear.clip import Clip
from .nonlinear.gamma import Gamma
from .nonlinear.jpeg import JPEG
from .nonlinear.log_likelihood import LogLikelihood
from .nonlinear.network_operator import NetworkOperator
from .nonlinear.quantize import Quantize
from .resampling.downsample import Downsample
from .resampling.resize import Resize
from .sampling.channel_mix import ChannelMix
from .sampling.crop import Crop
from .sampling.mask import Mask
from .sampling.masks import box_mask, random_mask, stripe_mask
from .sampling.mosaic import Mosaic
from .transforms.cumulative_sum import CumulativeSum
from .transforms.finite_differences import FiniteDifferences
from .transforms.fourier import FourierMask
from .transforms.hadamard import Hadamard, walsh_order
from .transforms.jpeg_coefficients import JPEGCoefficients
from .transforms.mri import MRI, birdcage_maps, cartesian_mask
from .transforms.phase import CodedDiffraction, Magnitude, PhaseRetrieval
from .transforms.random_convolution import RandomConvolution
from .transforms.tomography import FanBeamCT, ParallelBeamCT

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
    "Decoder",
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
    "LogLikelihood",
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
    "Quantize",
    "RandomConvolution",
    "Resize",
    "RoundingNoise",
    "StudentNoise",
    "SubsampledConvolution",
    "TransmissionNoise",
    "VaryingBlur",
    "birdcage_maps",
    "box_mask",
    "cartesian_mask",
    "compose",
    "defocus_kernel",
    "from_deepinv",
    "from_linear_operator",
    "from_mrpro",
    "gaussian_kernel",
    "linearize",
    "motion_kernel",
    "per_channel",
    "per_item",
    "per_slice",
    "psf_kernel",
    "random_mask",
    "stack",
    "stripe_mask",
    "temper",
    "walsh_order",
    "whiten",
]
