"""The two parts of a measurement of decoded images: the operator on images, and the decoder before it."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.noise import GaussianNoise
from ..core.operator import Operator
from ..generic.decoder import Decoder
from ..generic.identity import Identity
from .compose import Composed, compose
from .whiten import Whitened, whiten

__all__ = ["MeasuredImage", "measured_image"]


class MeasuredImage(NamedTuple):
    """A measurement of decoded images, ``image @ decoder``.

    Attributes:
        image: The operator on images, with the noise of the measurement.
        decoder: The decoder, without noise.
    """

    image: Operator
    decoder: Decoder

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes of images, ``(B, *image)`` to ``(B, *latent)``, ``decoder.rows`` at a time, without a graph."""
        assert self.decoder.encode is not None
        with torch.no_grad():
            return torch.cat([self.decoder.encode(part) for part in torch.split(x, self.decoder.rows or len(x))])


def measured_image(op: Operator) -> MeasuredImage | None:
    """Return the parts of ``op`` if it measures the images of a :class:`Decoder`, also in nested compositions; else ``None``.

    A decoder with noise of its own is what a composition with :class:`Identity` leaves: a noisy image is measured.
    """
    if isinstance(op, Decoder):
        clean = copy.copy(op)
        clean.noise = GaussianNoise(0.0)
        return MeasuredImage(Identity(op.out_shape, noise=op.noise), clean)
    if isinstance(op, Whitened):
        inner = measured_image(op.op)
        return None if inner is None else MeasuredImage(whiten(inner.image), inner.decoder)
    inner = measured_image(op.inner) if isinstance(op, Composed) else None
    if inner is None or not isinstance(op, Composed):
        return None
    image = copy.copy(compose(op.outer, inner.image))
    image.noise = op.noise
    return MeasuredImage(image, inner.decoder)
