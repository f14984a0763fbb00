"""A measurement of decoded items, for the laws of methods that need one: a linear decoder of codes of any shape."""

from __future__ import annotations

from torch import Tensor

from invdiff.methods import METHODS
from invdiff.operators import Decoder, Operator

__all__ = ["decoded", "decoded_for"]


def decode(z: Tensor) -> Tensor:
    return 0.8 * z.flip(-1)


def encode(x: Tensor) -> Tensor:
    return x.flip(-1) / 0.8


def decoded(op: Operator) -> Operator:
    """Return the measurement by ``op`` of what codes decode to."""
    return op @ Decoder(decode, op.in_shape, encode=encode)


def decoded_for(method: str, op: Operator) -> Operator:
    """Return ``op``, or the measurement of what codes decode to if the method needs a latent prior."""
    return decoded(op) if "latent" in METHODS[method].needs else op
