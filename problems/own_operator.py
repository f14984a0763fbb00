"""Any operator of a person's own, from a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from invdiff.operators import Noise, Operator
from invdiff.registry import load_object

from .options import Option
from .problem import Problem

__all__ = ["OwnOperator"]


class OwnOperator(Problem):
    r"""Invert a measurement :math:`y = A(x) + n` whose operator is a person's own.

    Args:
        operator: Called with the image shape ``(C, H, W)``; returns the operator: a subclass of
            :class:`~invdiff.operators.Operator`, which needs ``forward`` alone, or a function.

    A measurement that comes in must have the shape of the image. An operator that changes the shape can be simulated; or it has
    a class method ``image_shape(measured)``, which returns the shape of the image for that of a measurement.
    """

    name = "operator"
    options = (
        Option(
            name="operator",
            kind="TEXT",
            metavar="FILE.py:NAME",
            needed="yes",
            help="Class or function that makes an operator of the image shape (C, H, W). The file is run as Python code.",
        ),
    )
    needs = "--operator, such as mine.py:MyOperator: what makes an operator of the image shape (C, H, W)"
    measures = "yours"

    def __init__(self, operator: Callable[[tuple[int, int, int]], Operator]) -> None:
        self.build = operator

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, size: tuple[int, int]) -> Self:
        given = options["operator"]
        build = load_object(given) if isinstance(given, str) else given
        if not callable(build):
            raise TypeError(f"--operator {given}: expected a class or function to call with the image shape, got {build!r}.")
        called: Callable[..., Any] = build
        return cls(called)

    @classmethod
    def files(cls, options: Mapping[str, Any]) -> dict[str, Path]:
        place, _, _ = str(options["operator"]).rpartition(":")
        return {"operator": Path(place)} if place.endswith(".py") else {}

    def operator(self, shape: tuple[int, int, int], *, noise: Noise | None = None) -> Operator:
        op = self.build(shape)
        if not isinstance(op, Operator):
            raise TypeError(f"--operator: expected an operator for images of shape {shape}, got {op!r}.")
        if noise is not None:
            op.noise = noise
        return op

    def image_shape(self, measured: tuple[int, ...]) -> tuple[int, int, int]:
        told = getattr(self.build, "image_shape", None)
        if told is not None:
            channels, height, width = told(measured)
            return channels, height, width
        made = tuple(self.operator((measured[0], measured[1], measured[2])).out_shape)
        if made != tuple(measured):
            raise ValueError(
                f"--operator: it makes {made} of an image of INPUT's shape {tuple(measured)}, so of what image INPUT is the "
                "measurement cannot be told. Give the operator a class method image_shape(measured), or a clean INPUT and "
                "--simulate."
            )
        return measured[0], measured[1], measured[2]

    def preview(self, y: Tensor) -> Tensor:
        """Return the measurement as it is where it is a picture; else its numbers in rows, from the smallest to the largest."""
        if is_picture(y):
            return y
        numbers = y.flatten(1)
        side = math.ceil(math.sqrt(numbers.shape[1]))
        low, high = numbers.amin(1, keepdim=True), numbers.amax(1, keepdim=True)
        shades = 2 * (numbers - low) / (high - low).clamp(min=1e-12) - 1
        return F.pad(shades, (0, side**2 - shades.shape[1]), value=-1.0).reshape(-1, 1, side, side)

    def numbers(self, y: Tensor) -> np.ndarray[Any, Any]:
        return super().numbers(y) if is_picture(y) else y[0].numpy()

    def write_measurement(self, folder: Path, y: Tensor, *, suffix: str, bits: int, icc: bytes | None) -> None:
        if is_picture(y):
            super().write_measurement(folder, y, suffix=".png", bits=bits, icc=icc)
        else:
            np.savez_compressed(folder / "measurement.npz", y=y[0].numpy())


def is_picture(y: Tensor) -> bool:
    """Whether a measurement ``(B, ...)`` can be shown as it is: grey, or red, green and blue."""
    return y.ndim == 4 and y.shape[1] in (1, 3)
