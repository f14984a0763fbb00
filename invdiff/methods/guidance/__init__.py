"""Guidance of the reverse diffusion by a measurement. One algorithm per file."""

from invdiff.methods.guidance.ddnm import DDNM
from invdiff.methods.guidance.ddnm_plus import DDNMPlus
from invdiff.methods.guidance.ddrm import DDRM
from invdiff.methods.guidance.diffpir import DiffPIR
from invdiff.methods.guidance.ding import DInG
from invdiff.methods.guidance.dmps import DMPS
from invdiff.methods.guidance.dps import DPS
from invdiff.methods.guidance.dps_gaussian import DPSGaussian
from invdiff.methods.guidance.exact_score import ExactScore
from invdiff.methods.guidance.flow_dps import FlowDPS
from invdiff.methods.guidance.flower import Flower
from invdiff.methods.guidance.guidance import ConditionalDenoiser, Correction, Guidance, Transition
from invdiff.methods.guidance.handover import Handover
from invdiff.methods.guidance.ilvr import ILVR
from invdiff.methods.guidance.lgd_mc import LGDMC
from invdiff.methods.guidance.mcg import MCG
from invdiff.methods.guidance.mmps import MMPS
from invdiff.methods.guidance.ot_ode import OTODE
from invdiff.methods.guidance.pigdm import PiGDM
from invdiff.methods.guidance.psld import PSLD
from invdiff.methods.guidance.score_ald import ScoreALD
from invdiff.methods.guidance.sda import SDA
from invdiff.methods.guidance.tmpd import TMPD
from invdiff.methods.guidance.unconditional import Unconditional

__all__ = [
    "DDNM",
    "DDRM",
    "DMPS",
    "DPS",
    "ILVR",
    "LGDMC",
    "MCG",
    "MMPS",
    "OTODE",
    "PSLD",
    "SDA",
    "TMPD",
    "ConditionalDenoiser",
    "Correction",
    "DDNMPlus",
    "DInG",
    "DPSGaussian",
    "DiffPIR",
    "ExactScore",
    "FlowDPS",
    "Flower",
    "Guidance",
    "Handover",
    "PiGDM",
    "ScoreALD",
    "Transition",
    "Unconditional",
]
