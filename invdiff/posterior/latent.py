"""What a run under a latent prior adds: the decoder before the measurement, the images of its codes, and exact pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invdiff.operators import Decoder, LinearOperator, Mosaic, Operator
from invdiff.priors import LatentPrior, ScoreModel

__all__ = ["decoded", "decoder_of", "put_back"]


def decoder_of(score: ScoreModel, op: Operator) -> tuple[ScoreModel, Decoder | None]:
    """Return the prior for the images of an operator, and its decoder; ``None`` for a prior of images themselves.

    Raises:
        ValueError: If the operator does not measure the images of the decoder.
    """
    if not isinstance(score, LatentPrior):
        return score, None
    score = score.for_images(op.in_shape)
    shape = tuple(int(side or 0) for side in score.event_shape or ())
    how: dict[str, Any] = {"rows": score.rows, "checked": score.checked, "device": op.device or score.device, "dtype": op.dtype}
    how |= {} if score.sides is None else {"out_shape": (score.channels, *score.sides)}
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


def put_back(op: Operator, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    r"""Put the pixels that ``y`` gives exactly into decoded images: :math:`x + A^+ (y - A x)` where this selects pixels.

    Only entries that ``y`` holds are changed, as for a noise-free mask, crop or mosaic: nothing is solved for, and nothing
    rings. Other measurements leave the images as they are.

    Args:
        op: The measurement of images.
        x: Decoded images, ``(N, B, *image)``.
        y: Measurement, ``(B, *op.out_shape)``.

    Returns:
        The images, and which of the items had such pixels, boolean, ``(B,)``.
    """
    images, exact = list[Tensor](), list[bool]()
    for b in range(len(y)):
        one = op.take([b])
        known = _known(one)
        exact.append(known is not None)
        if known is None:
            images.append(x[:, b])
        else:
            assert isinstance(one, LinearOperator)
            images.append(torch.where(known.to(x.device), one.adjoint(y[b : b + 1]), x[:, b]))
    return torch.stack(images, 1), torch.tensor(exact, device=x.device)


def _known(op: Operator) -> Tensor | None:
    """Return ``op.known``, also for a mosaic, whose samples need no windows."""
    if isinstance(op, Mosaic):
        return op.mask > 0 if op.noise.white and op.noise.sigma == 0 else None
    return op.known
