"""Ready-made inverse problems on images. The table needs no torch: classes are loaded on first use."""

if __name__ != "invdiff.problems":
    raise ImportError("Import this package as invdiff.problems. Under any other name its classes would exist twice.")

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from invdiff.registry import Registry

from .options import Option as Option
from .options import OptionError as OptionError

if TYPE_CHECKING:
    from .arrays import ArrayProblem as ArrayProblem
    from .colorize import Colorize as Colorize
    from .compressed_sensing import CompressedSensing as CompressedSensing
    from .ct import ReconstructCT as ReconstructCT
    from .deblur import Deblur as Deblur
    from .declip import Declip as Declip
    from .defocus import Defocus as Defocus
    from .dejpeg import Dejpeg as Dejpeg
    from .demosaic import Demosaic as Demosaic
    from .denoise import Denoise as Denoise
    from .dequantize import Dequantize as Dequantize
    from .inpaint import Inpaint as Inpaint
    from .motion_deblur import MotionDeblur as MotionDeblur
    from .mri import ReconstructMRI as ReconstructMRI
    from .outpaint import Outpaint as Outpaint
    from .own_operator import OwnOperator as OwnOperator
    from .phase_retrieval import RetrievePhase as RetrievePhase
    from .problem import Given as Given
    from .problem import Problem as Problem
    from .super_resolution import SuperResolution as SuperResolution


def _adopt(name: str, thing: Any) -> "type[Problem]":
    from .problem import Problem

    if not (isinstance(thing, type) and issubclass(thing, Problem)) or inspect.isabstract(thing):
        raise TypeError(
            f"{name} is not a problem: expected a subclass of invdiff.problems.Problem that defines operator(), got {thing!r}."
        )
    return thing


PROBLEMS: "Registry[type[Problem]]" = Registry(
    "problem",
    {
        "inpaint": ("invdiff.problems.inpaint:Inpaint", "fill in masked pixels"),
        "outpaint": ("invdiff.problems.outpaint:Outpaint", "extend an image beyond its borders"),
        "denoise": ("invdiff.problems.denoise:Denoise", "remove noise of a known level"),
        "deblur": ("invdiff.problems.deblur:Deblur", "remove a blur with a known kernel"),
        "defocus": ("invdiff.problems.defocus:Defocus", "remove the blur of an out-of-focus lens"),
        "motion-deblur": ("invdiff.problems.motion_deblur:MotionDeblur", "remove the blur of linear motion"),
        "sr": ("invdiff.problems.super_resolution:SuperResolution", "enlarge a downsampled image"),
        "colorize": ("invdiff.problems.colorize:Colorize", "colorize a grayscale image"),
        "demosaic": ("invdiff.problems.demosaic:Demosaic", "reconstruct colors from a raw Bayer mosaic"),
        "declip": ("invdiff.problems.declip:Declip", "recover saturated values"),
        "dequantize": ("invdiff.problems.dequantize:Dequantize", "recover an image rounded to few levels"),
        "dejpeg": ("invdiff.problems.dejpeg:Dejpeg", "remove JPEG compression artifacts"),
        "compressed-sensing": (
            "invdiff.problems.compressed_sensing:CompressedSensing",
            "reconstruct an image from few random measurements",
        ),
        "phase-retrieval": (
            "invdiff.problems.phase_retrieval:RetrievePhase",
            "reconstruct an image from Fourier magnitudes",
        ),
        "mri": ("invdiff.problems.mri:ReconstructMRI", "reconstruct an image from undersampled k-space"),
        "ct": ("invdiff.problems.ct:ReconstructCT", "reconstruct an image from a sinogram"),
        "operator": ("invdiff.problems.own_operator:OwnOperator", "invert your own measurement operator"),
    },
    _adopt,
    group="invdiff.problems",
)
_CLASSES = {place.rpartition(":")[2]: place.rpartition(":")[0] for place, _ in PROBLEMS.lines.values()}
_CLASSES |= {"ArrayProblem": "invdiff.problems.arrays"}
_CLASSES |= dict.fromkeys(("Given", "Problem"), "invdiff.problems.problem")

__all__ = ["PROBLEMS", "Option", "OptionError", *_CLASSES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return getattr(importlib.import_module(_CLASSES[name]), name)
    raise AttributeError(f"module 'invdiff.problems' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
