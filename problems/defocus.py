"""Undoing a lens out of focus."""

from __future__ import annotations

from invdiff.operators import Blur, Noise, Operator
from invdiff.operators.blur.kernels import defocus_kernel

from .options import BOUNDARY, Option
from .problem import Problem, photographs

__all__ = ["Defocus"]


class Defocus(Problem):
    """Undo the blur of a lens out of focus: a uniform disc.

    Args:
        radius: Of the disc, in pixels, positive.
        boundary: What the blur saw beyond the border: ``reflect``, ``zero`` or ``circular``.

    Raises:
        ValueError: If the radius is not positive.
    """

    name = "defocus"
    options = (
        Option(
            name="radius",
            kind="NUMBER",
            minimum=0,
            above=True,
            needed="yes",
            help="Radius of the defocus disc that a point becomes, in pixels.",
        ),
        BOUNDARY,
    )
    needs = "--radius, of the disc that a point becomes, in pixels"
    measures = "Blur"
    recommended = photographs(max_iterations=6)

    def __init__(self, radius: float, *, boundary: str = "reflect") -> None:
        if not radius > 0:
            raise ValueError(f"Defocus: radius must be positive, in pixels, got {radius:g}.")
        self.radius, self.boundary = radius, boundary

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        # Before it is built: a kernel far larger than the image would not fit the memory.
        if 2 * self.radius > min(shape[-2:]):
            raise ValueError(f"Defocus: a disc of radius {self.radius:g} is larger than the image, {shape[-1]} x {shape[-2]}.")
        return Blur(shape, defocus_kernel(self.radius), boundary=self.boundary, noise=noise)
