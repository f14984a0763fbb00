"""Approximations of E[x_0 | x_t, y]. One algorithm a file."""

from invdiff.guidance.ald import ScoreALD
from invdiff.guidance.base import Guidance
from invdiff.guidance.ddnm import DDNM, DDNMPlus
from invdiff.guidance.ddrm import DDRM
from invdiff.guidance.diffpir import DiffPIR
from invdiff.guidance.dmps import DMPS
from invdiff.guidance.dps import DPS
from invdiff.guidance.dps_gaussian import DPSGaussian
from invdiff.guidance.exact_score import ExactScore
from invdiff.guidance.handover import Handover
from invdiff.guidance.ilvr import ILVR
from invdiff.guidance.lgd_mc import LGDMC
from invdiff.guidance.mcg import MCG
from invdiff.guidance.mmps import MMPS
from invdiff.guidance.pigdm import PiGDM
from invdiff.guidance.sda import SDA
from invdiff.guidance.tmpd import TMPD
from invdiff.guidance.unconditional import Unconditional

__all__ = [
    "DDNM",
    "DDRM",
    "DMPS",
    "DPS",
    "ILVR",
    "LGDMC",
    "MCG",
    "MMPS",
    "SDA",
    "TMPD",
    "DDNMPlus",
    "DPSGaussian",
    "DiffPIR",
    "ExactScore",
    "Guidance",
    "Handover",
    "PiGDM",
    "ScoreALD",
    "Unconditional",
]
