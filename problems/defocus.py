"""Deblurring of an out-of-focus image."""

from __future__ import annotations

from invdiff.operators import Blur, Noise, Operator
from invdiff.operators.blur.kernels import defocus_kernel

from .options import BOUNDARY, Option
from .problem import Problem, photographs

__all__ = ["Defocus"]


class Defocus(Problem):
    """Remove the blur of an out-of-focus lens, whose kernel is a uniform disc.

    Args:
        radius: Radius of the disc, in pixels, positive.
        boundary: Boundary condition of the blur: ``reflect``, ``zero`` or ``circular``.

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
            help="Radius of the defocus disc, in pixels.",
        ),
        BOUNDARY,
    )
    needs = "--radius, the radius of the defocus disc in pixels"
    measures = "Blur"
    recommended = photographs(max_iterations=6)

    def __init__(self, radius: float, *, boundary: str = "reflect") -> None:
        if not radius > 0:
            raise ValueError(f"Defocus: radius must be positive, in pixels, got {radius:g}.")
        self.radius, self.boundary = radius, boundary

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        # Checked before the kernel is built: one far larger than the image would exhaust memory.
        if 2 * self.radius > min(shape[-2:]):
            raise ValueError(f"Defocus: a disc of radius {self.radius:g} is larger than the image, {shape[-1]} x {shape[-2]}.")
        return Blur(shape, defocus_kernel(self.radius), boundary=self.boundary, noise=noise)
