"""What a run under a latent prior adds: the decoder before the measurement, and the images of its codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invdiff.operators import Decoder, Operator
from invdiff.priors import LatentPrior, ScoreModel

__all__ = ["decoded", "decoder_of"]


def decoder_of(score: ScoreModel, op: Operator) -> tuple[ScoreModel, Decoder | None]:
    """Return the prior for the images of an operator, and its decoder; ``None`` for a prior of images themselves.

    Raises:
        ValueError: If the operator does not measure the images of the decoder.
    """
    if not isinstance(score, LatentPrior):
        return score, None
    score = score.for_images(op.in_shape)
    shape = tuple(int(side or 0) for side in score.event_shape or ())
    how: dict[str, Any] = {"rows": score.rows, "checked": score.checked, "device": op.device, "dtype": op.dtype}
    decoder = Decoder(score.decode, shape, encode=score.encode, **how)
    if tuple(op.in_shape) != decoder.out_shape:
        raise ValueError(
            f"The decoder of the prior makes images of shape {decoder.out_shape}, and the operator measures images of shape "
            f"{tuple(op.in_shape)}. Give codes of another size: LatentPrior(..., latent_shape=...)."
        )
    return score, decoder


@torch.no_grad()
def decoded(decoder: Decoder, codes: Tensor) -> Tensor:
    """Return the images of codes, ``(N, B, *latent)`` to ``(N, B, *image)``, one sample after another for the memory."""
    return torch.stack([decoder(code) for code in codes])
