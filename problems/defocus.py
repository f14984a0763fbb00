"""Deblurring of an out-of-focus image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from invdiff.operators.blur.kernels import defocus_kernel

from .blurred import BlurProblem
from .options import BOUNDARY, Option

__all__ = ["Defocus"]


class Defocus(BlurProblem):
    """Remove the blur of an out-of-focus lens, whose kernel is a uniform disc.

    Args:
        radius: Radius of the disc, in pixels, positive. Default: it is estimated.
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
            needed="simulated",
            help="Radius of the defocus disc, in pixels. Default: estimated from INPUT.",
            help_simulated="Radius of the defocus disc, in pixels.",
        ),
        BOUNDARY,
    )
    needs = "--radius, the radius of the defocus disc in pixels"
    measures = "Blur"
    misfit_causes = "a wrong --radius, a blur that differs across the picture"

    def __init__(self, radius: float | None = None, *, boundary: str = "reflect") -> None:
        if radius is not None and not radius > 0:
            raise ValueError(f"Defocus: radius must be positive, in pixels, got {radius:g}.")
        self.radius, self.boundary = radius, boundary
        self.unknown = "disc" if radius is None else None

    @classmethod
    def is_blind(cls, options: Mapping[str, Any]) -> bool:
        return options["radius"] is None

    def kernel_for(self, size: tuple[int, int]) -> Tensor:
        assert self.radius is not None
        if 2 * self.radius > min(size):
            raise ValueError(f"Defocus: a disc of radius {self.radius:g} is larger than the image, {size[1]} x {size[0]}.")
        return defocus_kernel(self.radius)
