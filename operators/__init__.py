"""Measurement operators: ``y = A(x) + n``. One operator a file; ``base`` holds what they share."""

if __name__ != "invdiff.operators":
    raise ImportError("Import this folder as invdiff.operators: under its own name its classes would exist twice.")

from .base import Jacobian, LinearOperator, Operator
from .noise import GaussianNoise

__all__ = ["GaussianNoise", "Jacobian", "LinearOperator", "Operator"]
