"""Ready-made tasks on images. One task a file."""

if __name__ != "invdiff.problems":
    raise ImportError("Import this folder as invdiff.problems: under its own name its classes would exist twice.")

from .arrays import ArrayProblem
from .colorize import Colorize
from .compressed_sensing import CompressedSensing
from .ct import ReconstructCT
from .deblur import Deblur
from .declip import Declip
from .defocus import Defocus
from .dejpeg import Dejpeg
from .demosaic import Demosaic
from .denoise import Denoise
from .dequantize import Dequantize
from .inpaint import Inpaint
from .motion_deblur import MotionDeblur
from .mri import ReconstructMRI
from .outpaint import Outpaint
from .phase_retrieval import RetrievePhase
from .problem import QUALITIES, Problem
from .super_resolution import SuperResolution

PROBLEMS: dict[str, type[Problem]] = {
    problem.name: problem
    for problem in (
        *(Inpaint, Outpaint, Denoise, Deblur, Defocus, MotionDeblur, SuperResolution),
        *(Colorize, Demosaic, Declip, Dequantize, Dejpeg),
        *(CompressedSensing, RetrievePhase, ReconstructMRI, ReconstructCT),
    )
}

__all__ = [
    "PROBLEMS",
    "QUALITIES",
    "ArrayProblem",
    "Colorize",
    "CompressedSensing",
    "Deblur",
    "Declip",
    "Defocus",
    "Dejpeg",
    "Demosaic",
    "Denoise",
    "Dequantize",
    "Inpaint",
    "MotionDeblur",
    "Outpaint",
    "Problem",
    "ReconstructCT",
    "ReconstructMRI",
    "RetrievePhase",
    "SuperResolution",
]
