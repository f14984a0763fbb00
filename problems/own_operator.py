"""Inversion of a user-defined operator, which may be loaded from a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.io.images import atomic_write
from invdiff.operators import Noise, Operator
from invdiff.operators.core.trial import checked_call
from invdiff.registry import load_object, raised

from .options import Option
from .problem import Problem

__all__ = ["OwnOperator"]


class OwnOperator(Problem):
    r"""Invert a measurement :math:`y = A(x) + n` with a user-defined operator.

    Args:
        operator: Called with the image shape ``(C, H, W)``; returns the operator. A subclass of
            :class:`~invdiff.operators.Operator`, which only needs to define ``forward``, or a function.

    INPUT must have the shape of the image unless the operator has a class method ``image_shape(measured)``, which returns the
    shape of the image for the shape of a measurement. An operator that changes the shape can be simulated without it.
    """

    name = "operator"
    options = (
        Option(
            name="operator",
            kind="TEXT",
            metavar="FILE.py:NAME",
            needed="yes",
            help="Class or function that returns an operator for the image shape (C, H, W). The file is run as Python code.",
        ),
    )
    needs = "--operator, a class or function that returns an operator for the image shape (C, H, W), such as mine.py:MyOperator"
    keeps_range = False
    measures = "your own"
    misfit_causes = "an --operator that does not describe INPUT"

    def __init__(self, operator: Callable[[tuple[int, int, int]], Operator]) -> None:
        self.build = operator

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        given = options["operator"]
        build = load_object(given) if isinstance(given, str) else given
        if not callable(build) or isinstance(build, Operator):
            raise TypeError(
                f"--operator {given}: expected a class or function that takes the image shape (C, H, W), got {build!r}."
            )
        called: Callable[..., Any] = build
        return cls(called)

    @classmethod
    def files(cls, options: Mapping[str, Any]) -> dict[str, Path]:
        place, _, _ = str(options["operator"]).rpartition(":")
        return {"operator": Path(place)} if place.endswith(".py") else {}

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        op = self.called(shape)
        if not isinstance(op, Operator):
            raise TypeError(f"--operator: expected an operator for images of shape {shape}, got {op!r}.")
        if tuple(op.in_shape) != tuple(shape):
            raise ValueError(f"--operator: expected an operator for images of shape {shape}, got one for {tuple(op.in_shape)}.")
        self.check(op)
        if noise is not None:
            op.noise = noise
        return op

    def called(self, shape: tuple[int, int, int]) -> Any:
        """Return what the class or function returns for an image shape.

        Raises:
            ValueError: If it raises an exception.
        """
        try:
            return self.build(shape)
        except Exception as error:  # whatever somebody's code raises
            raise ValueError(
                f"--operator: {self.name_of()} was called with the shape {shape} and raised {raised(error)}"
            ) from error

    def check(self, op: Operator) -> None:
        """Try an operator on two images, before anything is sampled.

        Raises:
            ValueError: If it raises an exception, or returns anything but one finite real measurement of each image.
        """
        images = 0.1 * torch.randn(op.items or 2, *op.in_shape, generator=torch.Generator().manual_seed(0))
        images = images.to(op.device, op.dtype)
        try:
            y = checked_call(self.name_of(), op.forward, images)
        except Exception as error:
            raise ValueError(f"--operator: forward of {self.name_of()} failed on two images: {raised(error)}") from error
        if tuple(y.shape[1:]) != tuple(op.out_shape):
            raise ValueError(
                f"--operator: forward of {self.name_of()} returns a measurement of shape {tuple(y.shape[1:])}, but its "
                f"out_shape is {tuple(op.out_shape)}."
            )
        if not y.isfinite().all():
            raise ValueError(f"--operator: forward of {self.name_of()} returns nan or infinity for images of noise.")

    def name_of(self) -> str:
        """Return the name of the class or function, for errors."""
        return getattr(self.build, "__name__", type(self.build).__name__)

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        told = getattr(self.build, "image_shape", None)
        if told is not None:
            channels, height, width = told(measured)
            return channels, height, width
        made = tuple(self.operator((measured[0], measured[1], measured[2])).out_shape)
        if made != tuple(measured):
            raise ValueError(
                f"--operator: an image with the shape of INPUT, {tuple(measured)}, has a measurement of shape {made}, so the "
                "shape of the image is unknown. Give the operator a class method image_shape(measured), or use --simulate with "
                "a clean INPUT."
            )
        return measured[0], measured[1], measured[2]

    def preview(self, y: Tensor) -> Tensor:
        """Return the measurement itself if it is a picture; otherwise its values in rows of a square, scaled to [-1, 1]."""
        if is_picture(y):
            return y
        numbers = y.flatten(1)
        side = math.ceil(math.sqrt(numbers.shape[1]))
        low, high = numbers.amin(1, keepdim=True), numbers.amax(1, keepdim=True)
        shades = 2 * (numbers - low) / (high - low).clamp(min=1e-12) - 1
        return F.pad(shades, (0, side**2 - shades.shape[1]), value=-1.0).reshape(-1, 1, side, side)

    def numbers(self, y: Tensor) -> np.ndarray[Any, Any]:
        return super().numbers(y) if is_picture(y) else y[0].numpy()

    def write_measurement(
        self, folder: Path, y: Tensor, *, suffix: str, bits: int, icc: bytes | None, exif: bytes | None = None
    ) -> None:
        if is_picture(y):
            suffix = suffix if suffix == ".npy" else ".png"
            super().write_measurement(folder, y, suffix=suffix, bits=bits, icc=icc, exif=exif)
        else:
            with atomic_write(folder / "measurement.npz") as part:
                np.savez_compressed(part, y=y[0].numpy())


def is_picture(y: Tensor) -> bool:
    """Return whether a measurement ``(B, ...)`` can be shown as a grayscale or RGB picture."""
    return y.ndim == 4 and y.shape[1] in (1, 3)
