"""Filling in what is missing."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from invdiff.operators import Mask, Operator

from .problem import Problem, photographs

__all__ = ["Inpaint"]


class Inpaint(Problem):
    """Fill the pixels that a mask leaves out.

    Args:
        mask: Boolean ``(H, W)``, or anything that broadcasts to ``(C, H, W)``: true where the pixel is known.

    Raises:
        ValueError: If nothing is missing, or nothing is known.
    """

    name = "inpaint"
    summary = "fill the pixels a mask leaves out"
    needs = ("--mask",)
    recommended = photographs(max_iterations=4)

    def __init__(self, mask: Any) -> None:
        self.mask = torch.as_tensor(mask).bool()
        if self.mask.all() or not self.mask.any():
            what = "nothing to fill" if self.mask.all() else "everything to fill"
            raise ValueError(f"Inpaint: the mask leaves {what}. White marks what to fill, black what to keep.")

    @classmethod
    def examples(cls) -> list[Self]:
        mask = torch.ones(16, 24, dtype=torch.bool)
        mask[4:9, 5:12] = False
        return [cls(mask)]

    def operator(self, shape: tuple[int, int, int], *, sigma_y: float) -> Operator:
        if tuple(self.mask.shape[-2:]) != shape[-2:]:
            (mh, mw), (h, w) = self.mask.shape[-2:], shape[-2:]
            raise ValueError(f"Inpaint: the mask is {mw} x {mh} pixels and the image {w} x {h}. They must be the same size.")
        return Mask(self.mask, shape, sigma_y=sigma_y)

    def finish(self, x: Tensor, y: Tensor, op: Operator) -> Tensor:
        # Exact data: the sampler comes close, and what is known is known.
        return torch.where(self.mask.to(x.device), y, x) if op.sigma_y == 0 else x
