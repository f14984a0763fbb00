"""Approximations of E[x_0 | x_t, y]. One algorithm a file."""

from invdiff.guidance.base import Guidance
from invdiff.guidance.dps import DPS
from invdiff.guidance.mmps import MMPS
from invdiff.guidance.pigdm import PiGDM

__all__ = ["DPS", "MMPS", "Guidance", "PiGDM"]
