"""Undoing a straight movement of the camera."""

from __future__ import annotations

from invdiff.operators import Blur, Noise, Operator
from invdiff.operators.blur.kernels import motion_kernel

from .options import BOUNDARY, Option
from .problem import Problem, photographs

__all__ = ["MotionDeblur"]


class MotionDeblur(Problem):
    """Undo the blur of a straight movement, of the camera or of all it saw.

    Args:
        length: Of the movement, in pixels, odd and at least 3.
        angle: Of the movement, in degrees, counter-clockwise from the horizontal.
        boundary: What the blur saw beyond the border: ``reflect``, ``zero`` or ``circular``.

    Raises:
        ValueError: If the length is even or below 3.
    """

    name = "motion-deblur"
    options = (
        Option(name="length", kind="INTEGER", minimum=3, needed="yes", help="Length of the movement, an odd number of pixels."),
        Option(
            name="angle",
            kind="NUMBER",
            needed="yes",
            help="Angle of the movement, in degrees, anticlockwise from horizontal.",
        ),
        BOUNDARY,
    )
    needs = "--length in pixels and --angle in degrees of the movement"
    measures = "Blur"
    recommended = photographs(max_iterations=6)

    def __init__(self, length: int, angle: float, *, boundary: str = "reflect") -> None:
        if length < 3 or length % 2 == 0:
            raise ValueError(f"MotionDeblur: length must be odd and at least 3, in pixels, got {length}.")
        self.length, self.angle, self.boundary = length, angle, boundary

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        # Before it is built: a kernel far larger than the image would not fit the memory.
        if self.length > min(shape[-2:]):
            raise ValueError(
                f"MotionDeblur: a movement of {self.length} pixels is larger than the image, {shape[-1]} x {shape[-2]}."
            )
        return Blur(shape, motion_kernel(self.length, self.angle), boundary=self.boundary, noise=noise)
