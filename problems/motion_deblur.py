"""Deblurring of linear motion."""

from __future__ import annotations

from torch import Tensor

from invdiff.operators.blur.kernels import motion_kernel

from .blurred import BlurProblem
from .options import BOUNDARY, Option

__all__ = ["MotionDeblur"]


class MotionDeblur(BlurProblem):
    """Remove the blur of linear motion, of the camera or of the whole scene.

    Args:
        length: Length of the motion, in pixels, odd and at least 3.
        angle: Angle of the motion, in degrees, counterclockwise from horizontal.
        boundary: Boundary condition of the blur: ``valid``, ``reflect``, ``zero`` or ``circular``.

    Raises:
        ValueError: If the length is even or below 3.
    """

    name = "motion-deblur"
    options = (
        Option(name="length", kind="INTEGER", minimum=3, needed="yes", help="Length of the motion, an odd number of pixels."),
        Option(
            name="angle",
            kind="NUMBER",
            needed="yes",
            help="Angle of the motion, in degrees, counterclockwise from horizontal.",
        ),
        BOUNDARY,
    )
    needs = "--length in pixels and --angle in degrees"
    measures = "Blur"
    misfit_causes = "a wrong --length or --angle, a blur that differs across the picture"

    def __init__(self, length: int, angle: float, *, boundary: str = "reflect") -> None:
        if length < 3 or length % 2 == 0:
            raise ValueError(f"MotionDeblur: length must be odd and at least 3, in pixels, got {length}.")
        self.length, self.angle, self.boundary = length, angle, boundary

    def kernel_for(self, size: tuple[int, int]) -> Tensor:
        if self.length > min(size):
            raise ValueError(f"MotionDeblur: a motion of {self.length} pixels is larger than the image, {size[1]} x {size[0]}.")
        return motion_kernel(self.length, self.angle)
