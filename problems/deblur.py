"""Undoing a known blur."""

from __future__ import annotations

from typing import Any, Self

import torch

from invdiff.operators import Blur, Operator
from invdiff.operators.blur.kernels import gaussian_kernel

from .problem import Problem, photographs

__all__ = ["Deblur"]


class Deblur(Problem):
    """Undo a blur whose kernel is known.

    Args:
        kernel: ``(kh, kw)``, its centre at ``(kh // 2, kw // 2)``.
        boundary: What the blur saw beyond the border: ``reflect``, ``zero`` or ``circular``.
    """

    name = "deblur"
    summary = "undo a blur whose kernel is known"
    needs = ("--kernel",)
    recommended = photographs(max_iterations=6)

    def __init__(self, kernel: Any, *, boundary: str = "reflect") -> None:
        self.kernel, self.boundary = torch.as_tensor(kernel), boundary

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(gaussian_kernel(1.0, 5), boundary=boundary) for boundary in ("reflect", "circular")]

    def operator(self, shape: tuple[int, int, int], *, sigma_y: float) -> Operator:
        return Blur(shape, self.kernel, boundary=self.boundary, sigma_y=sigma_y)
