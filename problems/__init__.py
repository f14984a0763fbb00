"""Ready-made tasks on images. One task a file."""

if __name__ != "invdiff.problems":
    raise ImportError("Import this folder as invdiff.problems: under its own name its classes would exist twice.")

from .base import Problem
from .colorize import Colorize
from .deblur import Deblur
from .declip import Declip
from .defocus import Defocus
from .demosaic import Demosaic
from .denoise import Denoise
from .dequantize import Dequantize
from .inpaint import Inpaint
from .motion_deblur import MotionDeblur
from .outpaint import Outpaint
from .super_resolution import SuperResolution

PROBLEMS: dict[str, type[Problem]] = {
    problem.name: problem
    for problem in (
        *(Inpaint, Outpaint, Denoise, Deblur, Defocus, MotionDeblur, SuperResolution),
        *(Colorize, Demosaic, Declip, Dequantize),
    )
}

__all__ = [
    "PROBLEMS",
    "Colorize",
    "Deblur",
    "Declip",
    "Defocus",
    "Demosaic",
    "Denoise",
    "Dequantize",
    "Inpaint",
    "MotionDeblur",
    "Outpaint",
    "Problem",
    "SuperResolution",
]
