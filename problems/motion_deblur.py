"""Deblurring of linear motion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from invdiff.operators.blur.kernels import motion_kernel

from .blurred import BlurProblem
from .options import BOUNDARY, Option, OptionError

__all__ = ["MotionDeblur"]


class MotionDeblur(BlurProblem):
    """Remove the blur of linear motion, of the camera or of the whole scene.

    Args:
        length: Length of the motion, in pixels, odd and at least 3. Default: length and angle are estimated.
        angle: Angle of the motion, in degrees, counterclockwise from horizontal.
        boundary: Boundary condition of the blur: ``valid``, ``reflect``, ``zero`` or ``circular``.

    Raises:
        ValueError: If the length is even or below 3, or only one of length and angle is given.
    """

    name = "motion-deblur"
    options = (
        Option(
            name="length",
            kind="INTEGER",
            minimum=3,
            needed="simulated",
            help="Length of the motion, an odd number of pixels. Default: length and angle are estimated from INPUT.",
            help_simulated="Length of the motion, an odd number of pixels.",
        ),
        Option(
            name="angle",
            kind="NUMBER",
            needed="simulated",
            help="Angle of the motion, in degrees, counterclockwise from horizontal.",
        ),
        BOUNDARY,
    )
    needs = "--length in pixels and --angle in degrees"
    measures = "Blur"
    misfit_causes = "a wrong --length or --angle, a blur that differs across the picture"

    def __init__(self, length: int | None = None, angle: float | None = None, *, boundary: str = "reflect") -> None:
        if (length is None) != (angle is None):
            given, missing = ("--length", "--angle") if angle is None else ("--angle", "--length")
            raise OptionError(
                f"{given} is given without {missing}: give both, or none of them to have both estimated from INPUT."
            )
        if length is not None and (length < 3 or length % 2 == 0):
            raise ValueError(f"MotionDeblur: length must be odd and at least 3, in pixels, got {length}.")
        self.length, self.angle, self.boundary = length, angle, boundary
        self.unknown = "line" if length is None else None

    @classmethod
    def is_blind(cls, options: Mapping[str, Any]) -> bool:
        return options["length"] is None or options["angle"] is None

    def kernel_for(self, size: tuple[int, int]) -> Tensor:
        assert self.length is not None
        assert self.angle is not None
        if self.length > min(size):
            raise ValueError(f"MotionDeblur: a motion of {self.length} pixels is larger than the image, {size[1]} x {size[0]}.")
        return motion_kernel(self.length, self.angle)
