"""Deblurring with a known kernel, or one that is estimated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from invdiff.io.source import Source
from invdiff.operators.blur.kernels import gaussian_kernel, motion_kernel

from .blurred import BlurProblem
from .options import BOUNDARY, Option, OptionError
from .unknown_kernels import FAMILIES

__all__ = ["Deblur"]

KINDS = ("gaussian:", "motion:")  # prefixes of kernels computed from parameters


class Deblur(BlurProblem):
    """Remove a blur whose kernel is known, or estimate it too.

    Args:
        kernel: Blur kernel ``(kh, kw)``, with its center at ``(kh // 2, kw // 2)``; or the family of an unknown kernel:
            ``free`` (any kernel), ``gaussian``, ``disc`` or ``line``.
        boundary: Boundary condition of the blur: ``valid``, ``reflect``, ``zero`` or ``circular``.
        kernel_size: Side of a free kernel in pixels, odd. Default: 31, or less in small pictures.

    Raises:
        ValueError: If ``kernel_size`` is even, or given for a kernel that is not free.
    """

    name = "deblur"
    options = (
        Option(
            name="kernel",
            kind="TEXT",
            metavar="FILE|gaussian:SIGMA|motion:SIZE,ANGLE|free|gaussian|disc|line",
            needed="simulated",
            help="Blur kernel: an image, .npy, or .npz:name. Default: free, any kernel, estimated from INPUT; gaussian, disc "
            "or line without numbers: estimated among these.",
            help_simulated="Blur kernel: an image, .npy, or .npz:name.",
        ),
        Option(
            name="kernel_size",
            kind="INTEGER",
            minimum=3,
            help="Side of the free kernel that is estimated, an odd number of pixels. Default: 31, or less in small pictures.",
        ),
        BOUNDARY,
    )
    needs = "--kernel, a file (image, .npy or .npz:name), gaussian:SIGMA or motion:SIZE,ANGLE"
    measures = "Blur"
    misfit_causes = "a wrong --kernel (size, angle, place of its center), a blur that differs across the picture"

    def __init__(self, kernel: Any = "free", *, boundary: str = "reflect", kernel_size: int | None = None) -> None:
        self.boundary, self.kernel_size = boundary, kernel_size
        self.unknown = kernel if is_family(kernel) else None
        if kernel_size is not None and (self.unknown != "free" or kernel_size % 2 == 0):
            raise OptionError(
                f"--kernel-size is the side of a free kernel that is estimated, an odd number, got {kernel_size}. "
                + ("Choose an odd number." if self.unknown == "free" else "Leave it out, or leave --kernel out.")
            )
        if self.unknown is None:
            self.kernel = without_zeros(torch.as_tensor(kernel))

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        kernel = options["kernel"] if options["kernel"] is not None else "free"
        known = is_text(kernel) and not is_family(kernel)
        given = kernel_of(str(kernel), size) if known else kernel
        return cls(given, boundary=options["boundary"], kernel_size=options["kernel_size"])

    @classmethod
    def is_blind(cls, options: Mapping[str, Any]) -> bool:
        return options["kernel"] is None or is_family(options["kernel"])

    @classmethod
    def files(cls, options: Mapping[str, Any]) -> dict[str, Path]:
        kernel = options["kernel"]
        if not is_text(kernel) or is_family(kernel) or str(kernel).startswith(KINDS):
            return {}
        archive, _, _ = str(kernel).rpartition(":")
        return {"kernel": Path(archive) if archive.lower().endswith(".npz") else Path(kernel)}

    def kernel_for(self, size: tuple[int, int]) -> Tensor:
        (rows, columns), (height, width) = self.kernel.shape, size
        if rows > height or columns > width:
            raise ValueError(
                f"Deblur: the kernel must not be larger than the image, got {columns} x {rows} pixels for {width} x {height}. "
                "Crop the kernel."
            )
        return self.kernel


def is_text(kernel: Any) -> bool:
    """Return whether a kernel is given as a path or as text with its parameters, rather than as an array."""
    return isinstance(kernel, str | Path)


def is_family(kernel: Any) -> bool:
    """Return whether a kernel is the name of a family, whose parameters are unknown."""
    return isinstance(kernel, str) and kernel in FAMILIES


def without_zeros(kernel: Tensor) -> Tensor:
    """Return a kernel without borders of zeros, as wide on opposite sides, so that its center stays at ``(h // 2, w // 2)``."""
    if kernel.ndim != 2:
        return kernel  # refused by the operator
    for axis in (0, 1):
        empty = (kernel == 0).all(1 - axis).tolist()
        margin = 0
        while 2 * margin + 2 < len(empty) and empty[margin] and empty[-1 - margin]:
            margin += 1
        kernel = kernel.narrow(axis, margin, len(empty) - 2 * margin)
    return kernel


def kernel_of(text: str, size: tuple[int, int]) -> Tensor:
    """Return the kernel from a file, ``gaussian:SIGMA`` or ``motion:SIZE,ANGLE``, for an image of ``size`` ``(H, W)``."""
    kind, _, arguments = text.partition(":")
    if not text.startswith(KINDS):
        return torch.from_numpy(Source(text).kernel())
    try:
        numbers = [float(number) for number in arguments.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != (1 if kind == "gaussian" else 2) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"--kernel {text}: expected gaussian:SIGMA or motion:SIZE,ANGLE, such as gaussian:2 or motion:15,45.")
    # Checked before the kernel is built: one far larger than the image would exhaust memory.
    side = 2 * math.ceil(4 * numbers[0]) + 1 if kind == "gaussian" else int(numbers[0])
    if side > min(size):
        height, width = size
        raise ValueError(f"--kernel {text}: a kernel of {side} x {side} pixels is larger than the image, {width} x {height}.")
    if kind == "gaussian":
        return gaussian_kernel(numbers[0])
    return motion_kernel(int(numbers[0]) if numbers[0].is_integer() else 0, numbers[1])
