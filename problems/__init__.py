"""Ready-made tasks on images. One task a file."""

if __name__ != "invdiff.problems":
    raise ImportError("Import this folder as invdiff.problems: under its own name its classes would exist twice.")

from .base import Problem
from .deblur import Deblur
from .inpaint import Inpaint
from .super_resolution import SuperResolution

PROBLEMS: dict[str, type[Problem]] = {problem.name: problem for problem in (Inpaint, Deblur, SuperResolution)}

__all__ = ["PROBLEMS", "Deblur", "Inpaint", "Problem", "SuperResolution"]
