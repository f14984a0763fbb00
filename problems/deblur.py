"""Deblurring with a known kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from invdiff.io.images import read_kernel
from invdiff.operators.blur.kernels import gaussian_kernel, motion_kernel

from .blurred import BlurProblem
from .options import BOUNDARY, Option

__all__ = ["Deblur"]

KINDS = ("gaussian:", "motion:")  # prefixes of kernels computed from parameters


class Deblur(BlurProblem):
    """Remove a blur whose kernel is known.

    Args:
        kernel: Blur kernel ``(kh, kw)``, with its center at ``(kh // 2, kw // 2)``.
        boundary: Boundary condition of the blur: ``valid``, ``reflect``, ``zero`` or ``circular``.
    """

    name = "deblur"
    options = (
        Option(
            name="kernel",
            kind="TEXT",
            metavar="FILE|gaussian:SIGMA|motion:SIZE,ANGLE",
            needed="yes",
            help="Blur kernel: an image, .npy, or .npz:name.",
        ),
        BOUNDARY,
    )
    needs = "--kernel, a file (image, .npy or .npz:name), gaussian:SIGMA or motion:SIZE,ANGLE"
    measures = "Blur"
    misfit_causes = "a wrong --kernel (size, angle, place of its center), a blur that differs across the picture"

    def __init__(self, kernel: Any, *, boundary: str = "reflect") -> None:
        self.kernel, self.boundary = without_zeros(torch.as_tensor(kernel)), boundary

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        kernel = options["kernel"]
        return cls(kernel_of(str(kernel), size) if is_text(kernel) else kernel, boundary=options["boundary"])

    @classmethod
    def files(cls, options: Mapping[str, Any]) -> dict[str, Path]:
        kernel = options["kernel"]
        if not is_text(kernel) or str(kernel).startswith(KINDS):
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
        return torch.from_numpy(read_kernel(text))
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
