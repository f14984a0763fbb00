"""Deblurring of an out-of-focus image."""

from __future__ import annotations

from torch import Tensor

from invdiff.operators.blur.kernels import defocus_kernel

from .blurred import BlurProblem
from .options import BOUNDARY, Option

__all__ = ["Defocus"]


class Defocus(BlurProblem):
    """Remove the blur of an out-of-focus lens, whose kernel is a uniform disc.

    Args:
        radius: Radius of the disc, in pixels, positive.
        boundary: Boundary condition of the blur: ``valid``, ``reflect``, ``zero`` or ``circular``.

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
    misfit_causes = "a wrong --radius, a blur that differs across the picture"

    def __init__(self, radius: float, *, boundary: str = "reflect") -> None:
        if not radius > 0:
            raise ValueError(f"Defocus: radius must be positive, in pixels, got {radius:g}.")
        self.radius, self.boundary = radius, boundary

    def kernel_for(self, size: tuple[int, int]) -> Tensor:
        if 2 * self.radius > min(size):
            raise ValueError(f"Defocus: a disc of radius {self.radius:g} is larger than the image, {size[1]} x {size[0]}.")
        return defocus_kernel(self.radius)
