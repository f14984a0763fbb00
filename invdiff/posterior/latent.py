"""What a run under a latent prior adds: the decoder before the measurement, and the images of its codes."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.operators import Decoder, Operator
from invdiff.priors import LatentPrior, ScoreModel

__all__ = ["decoded", "decoder_of"]


def decoder_of(score: ScoreModel, op: Operator) -> Decoder | None:
    """Return the decoder of a latent prior, or ``None`` for any other prior.

    Raises:
        ValueError: If the operator does not measure the images of the decoder.
    """
    if not isinstance(score, LatentPrior):
        return None
    shape = tuple(int(side or 0) for side in score.event_shape or ())
    decoder = Decoder(score.decode, shape, encode=score.encode, rows=score.rows, device=op.device, dtype=op.dtype)
    if tuple(op.in_shape) != decoder.out_shape:
        raise ValueError(
            f"The decoder of the prior makes images of shape {decoder.out_shape}, and the operator measures images of shape "
            f"{tuple(op.in_shape)}. Give codes of another size: LatentPrior(..., latent_shape=...)."
        )
    return decoder


@torch.no_grad()
def decoded(decoder: Decoder, codes: Tensor) -> Tensor:
    """Return the images of codes, ``(N, B, *latent)`` to ``(N, B, *image)``, one sample after another for the memory."""
    return torch.stack([decoder(code) for code in codes])
