"""How a prior's prediction of a place changes the probability that it is damaged."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SIGNS", "judged", "signs"]

DETAIL, AROUND = 5, 21  # sides of the squares of the detail and of the surroundings, pixels
FLOOR = 0.03  # of the detail, of images that span [-1, 1]
SIGNS = 6


def signs(x: Tensor, expected: Tensor, hidden: Tensor, probability: Tensor) -> Tensor:
    r"""Return what tells damage from the scene, ``(B, SIGNS, H, W)``.

    With :math:`d` the difference of picture and prediction, :math:`m` its root mean square over channels and :math:`s` the
    root mean square of the detail of the surroundings (what a mean over 5 x 5 pixels removes): the log odds of the probability,
    :math:`\log m / s`, :math:`\log m`, how far neighbors differ in the same direction, the product of the first two, and 1.

    Args:
        x: Pictures, ``(B, C, H, W)``.
        expected: Prediction in hidden places, ``x`` elsewhere.
        hidden: Boolean, ``(B, 1, H, W)``.
        probability: Of damage, from the picture alone, ``(B, 1, H, W)``.
    """
    difference, inside = x - expected, hidden.to(x)
    size = difference.square().mean(1, keepdim=True).sqrt()
    detail = (expected - _mean(expected, DETAIL)).square().mean(1, keepdim=True)
    relative = size / (_mean(detail, AROUND).sqrt() + FLOOR)
    share = _mean(inside, DETAIL) + 1e-3
    together = (_mean(difference * inside, DETAIL) / share).square().mean(1, keepdim=True).sqrt()
    coherence = together / (_mean(size * inside, DETAIL) / share + FLOOR)
    odds, unusual = torch.logit(probability, 1e-4), torch.log(relative + 0.05)
    return torch.cat([odds, unusual, torch.log(size + 0.01), coherence, odds * unusual, torch.ones_like(odds)], 1)


def judged(weights: Tensor, found: Tensor, seen: Tensor) -> Tensor:
    """Return the probabilities of the classes with the prior's word: logistic regression on :func:`signs`.

    Args:
        weights: Of the signs, ``(SIGNS,)``.
        found: Probabilities of the classes from the picture alone, no damage first, ``(B, classes, H, W)``.
        seen: The signs, ``(B, SIGNS, H, W)``.
    """
    probability = torch.sigmoid(torch.einsum("k,bkhw->bhw", weights.to(seen), seen))[:, None]
    kinds = found[:, 1:] / found[:, 1:].sum(1, keepdim=True).clamp(min=1e-9)
    return torch.cat([1 - probability, probability * kinds], 1)


def _mean(x: Tensor, side: int) -> Tensor:
    return F.avg_pool2d(x, side, 1, side // 2, count_include_pad=False)
