"""How probable damage is in every pixel of a picture: from the picture, and from what a prior expects in its place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from invdiff.damage.network import STRIDE, Detector, thin_structures
from invdiff.damage.prediction import prediction
from invdiff.damage.weights import detectors
from invdiff.damage.windows import Window, cut, windows
from invdiff.priors import ScoreModel

__all__ = ["SUSPECT", "first_inputs", "probabilities", "second_inputs", "suspected"]

CORE, MARGIN = 416, 96  # of the windows of the first network; the margin is more than it sees
PRIOR_CORE, PRIOR_MARGIN = 160, 48  # of the windows of the prior
SUSPECT = 0.1  # probability of damage from which a pixel is hidden from the prior
AROUND = 2  # pixels around them that are hidden as well, which damage may have tinged
MOST = 0.7  # share of a window that may be hidden; beyond, there is nothing to predict from


def first_inputs(x: Tensor) -> Tensor:
    """Return the inputs of the first network, ``(B, 5, H, W)``, of color pictures ``(B, 3, H, W)``."""
    return torch.cat([x, thin_structures(x)], 1)


def second_inputs(x: Tensor, expected: Tensor, probability: Tensor, hidden: Tensor) -> Tensor:
    """Return the inputs of the second network, ``(B, 10, H, W)``.

    Args:
        x: Color pictures, ``(B, 3, H, W)``.
        expected: What the prior expects in hidden places, ``x`` elsewhere.
        probability: Of damage, by the first network, ``(B, 1, H, W)``.
        hidden: Boolean, ``(B, 1, H, W)``.
    """
    return torch.cat([first_inputs(x), x - expected, probability, hidden.to(x)], 1)


def suspected(probability: Tensor) -> Tensor:
    """Return the pixels to hide from the prior, booleans, from probabilities ``(B, 1, H, W)`` by the first network."""
    return F.max_pool2d((probability > SUSPECT).float(), 2 * AROUND + 1, 1, AROUND) > 0


@torch.no_grad()
def probabilities(x: Tensor, score: ScoreModel | None, *, progress: bool = False) -> Tensor:
    """Return the probability of every class in every pixel, ``(classes, H, W)``, on the CPU; the first class is no damage.

    The first network sees windows of the whole picture. Near what it suspects, and nowhere else, the suspected pixels are
    hidden from the prior, which predicts them from their surroundings, and the second network judges by the difference.

    Args:
        x: Color picture, ``(3, H, W)``, spanning [-1, 1], on the CPU.
        score: The prior; ``None``: the first network alone.
        progress: Whether to show a progress bar.
    """
    first, second, _ = detectors()
    found = x.new_zeros(first.classes, *x.shape[1:])
    found[0] = 1
    parts = list(windows(*x.shape[1:], core=CORE, margin=MARGIN, stride=STRIDE))
    for part in tqdm(parts, desc="look for damage", unit=" windows", disable=not progress, leave=False):
        _put(found, part, first(first_inputs(cut(x, part))).softmax(1))
    if score is None:
        return found
    suspect = 1 - found[:1]
    parts = [
        part
        for part in windows(*x.shape[1:], core=PRIOR_CORE, margin=PRIOR_MARGIN, stride=STRIDE)
        if (suspect[0][part.core] > SUSPECT).any()
    ]
    judged = found.clone()
    for part in tqdm(parts, desc="ask the prior", unit=" windows", disable=not progress, leave=False):
        _put(judged, part, _judged(cut(x, part), cut(suspect, part), score, second))
    return judged


def _judged(x: Tensor, suspect: Tensor, score: ScoreModel, second: Detector) -> Tensor:
    hidden = suspected(suspect)
    if hidden.float().mean() > MOST:  # hide the most suspicious pixels
        hidden = suspect > suspect.flatten().quantile(1 - MOST)
    expected = prediction(score, x, hidden)
    return second(second_inputs(x, expected, suspect, hidden)).softmax(1)


def _put(found: Tensor, part: Window, values: Tensor) -> None:
    found[:, *part.core] = values[0][:, *part.inner]


