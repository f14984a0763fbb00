"""Measurement operators: ``y = A(x) + n``. One operator a file; ``base`` holds what they share."""

if __name__ != "invdiff.operators":
    raise ImportError("Import this folder as invdiff.operators: under its own name its classes would exist twice.")

from .base import Jacobian, LinearOperator, Operator
from .blur import Blur
from .downsample import Downsample
from .function import Function, LinearFunction
from .identity import Identity
from .kernels import gaussian_kernel, motion_kernel
from .mask import Mask
from .matrix import Matrix
from .noise import GaussianNoise

__all__ = [
    "Blur",
    "Downsample",
    "Function",
    "GaussianNoise",
    "Identity",
    "Jacobian",
    "LinearFunction",
    "LinearOperator",
    "Mask",
    "Matrix",
    "Operator",
    "gaussian_kernel",
    "motion_kernel",
]
