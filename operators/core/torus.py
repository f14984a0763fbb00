"""Convolutions on a torus, told apart from their implementations."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["TorusConvolution"]


@dataclass(frozen=True)
class TorusConvolution:
    r"""Circular convolution of every channel with the same kernel, of which every :math:`s`-th value is kept.

    Two of them, one after the other, are one again.

    Attributes:
        stride: :math:`s` along each axis but that of the channels; 1 where all values are kept.
        device: Where the tensors of the operator are; ``None``: it has none.
    """

    stride: tuple[int, ...]
    device: torch.device | None
