"""A description of convolutions on a torus that does not depend on their implementation."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["TorusConvolution"]


@dataclass(frozen=True)
class TorusConvolution:
    r"""Strided circular convolution: every channel with the same kernel, keeping every :math:`s`-th value.

    The composition of two of them is a strided circular convolution again.

    Attributes:
        stride: :math:`s` along each axis except the channel axis; 1 where all values are kept.
        device: Device of the tensors of the operator. ``None``: the operator has no tensors.
    """

    stride: tuple[int, ...]
    device: torch.device | None
