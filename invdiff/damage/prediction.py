"""What a prior expects in places that are hidden, from their surroundings."""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.operators import Mask
from invdiff.priors import ScoreModel

__all__ = ["accepts", "prediction"]

RATIO = 10.0  # noise level of hidden pixels, of images that span [-1, 1]: the pixels tell nothing


def accepts(score: ScoreModel) -> bool:
    """Return whether a prior predicts hidden pixels by one denoising: whether it accepts a noise level for each pixel."""
    return "pixel" in score.noise_kinds


@torch.no_grad()
def prediction(score: ScoreModel, x: Tensor, hidden: Tensor) -> Tensor:
    r"""Return :math:`E[x_h | x_{\bar h}]` in hidden places :math:`h`, and ``x`` elsewhere, ``(B, C, H, W)``.

    The hidden pixels are given noise so large that they tell nothing, the others none, and the prior removes it in one call.

    Args:
        score: The prior, which :func:`accepts` such noise.
        x: Pictures, ``(B, C, H, W)``, of one or three channels; gray pictures are repeated for a color prior.
        hidden: Boolean, ``(1, 1, H, W)``, true at hidden pixels, not everywhere.
    """
    (channels, *_) = score.event_shape or (None,)
    own = x if channels in (None, x.shape[1]) else x.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    op = Mask(~hidden[0], own.shape[1:])
    pivot = op.pivot(torch.zeros_like(own), RATIO, op(own))
    assert pivot is not None
    expected = score.denoise_pivot(*pivot)
    expected = expected if own is x else expected.mean(1, keepdim=True).expand_as(x)
    return torch.where(hidden, expected, x)
