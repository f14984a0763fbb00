"""How probable damage is in every pixel of a picture: from the picture, and from what a prior expects in its place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from invdiff.damage.network import STRIDE, thin_structures
from invdiff.damage.prediction import prediction
from invdiff.damage.surprise import judged, signs
from invdiff.damage.weights import fitted
from invdiff.damage.windows import Window, cut, windows
from invdiff.priors import ScoreModel

__all__ = ["MARGIN", "SUSPECT", "inputs", "probabilities", "suspected"]

CORE, MARGIN = 400, 112  # of the windows of the network; the margin is as far as it sees
PRIOR_CORE, PRIOR_MARGIN = 160, 48  # of the windows of the prior
SUSPECT = 0.1  # probability of damage from which a pixel is hidden from the prior
AROUND = 2  # pixels around them that are hidden as well, which damage may have tinged
MOST = 0.7  # share of a window that may be hidden; beyond, there is nothing to predict from


def inputs(x: Tensor) -> Tensor:
    """Return the inputs of the network, ``(B, 9, H, W)``, of color pictures ``(B, 3, H, W)``."""
    return torch.cat([x, thin_structures(x)], 1)


def suspected(probability: Tensor) -> Tensor:
    """Return the pixels to hide from the prior, booleans, from probabilities ``(B, 1, H, W)`` by the network."""
    return F.max_pool2d((probability > SUSPECT).float(), 2 * AROUND + 1, 1, AROUND) > 0


@torch.no_grad()
def probabilities(x: Tensor, score: ScoreModel | None, *, progress: bool = False) -> Tensor:
    """Return the probability of every class in every pixel, ``(classes, H, W)``, on the CPU; the first class is no damage.

    The network sees windows of the whole picture. Near what it suspects, and nowhere else, the suspected pixels are hidden from
    the prior, which predicts them from their surroundings, and the difference changes their probability.

    Args:
        x: Color picture, ``(3, H, W)``, spanning [-1, 1], on the CPU.
        score: The prior; ``None``: the network alone.
        progress: Whether to show a progress bar.
    """
    net, weights, _ = fitted()
    found = x.new_zeros(net.classes, *x.shape[1:])
    parts = list(windows(*x.shape[1:], core=CORE, margin=MARGIN, stride=STRIDE))
    for part in tqdm(parts, desc="look for damage", unit=" windows", disable=not progress, leave=False):
        _put(found, part, net(inputs(cut(x, part))).softmax(1))
    if score is None:
        return found
    probability = 1 - found[:1]
    sides = windows(*x.shape[1:], core=PRIOR_CORE, margin=PRIOR_MARGIN, stride=STRIDE)
    parts = [part for part in sides if (probability[0][part.core] > SUSPECT).any()]
    for part in tqdm(parts, desc="ask the prior", unit=" windows", disable=not progress, leave=False):
        # Of the classes, those in the core alone count, which no other window changes.
        _put(found, part, _with_prior(cut(x, part), cut(found, part), cut(probability, part), score, weights))
    return found


def _with_prior(x: Tensor, found: Tensor, probability: Tensor, score: ScoreModel, weights: Tensor) -> Tensor:
    hidden = suspected(probability)
    if hidden.float().mean() > MOST:  # only the most suspicious pixels
        hidden = probability > probability.flatten().quantile(1 - MOST)
    seen = signs(x, prediction(score, x, hidden), hidden, probability)
    return torch.where(hidden & (probability > SUSPECT), judged(weights, found, seen), found)


def _put(found: Tensor, part: Window, values: Tensor) -> None:
    found[:, *part.core] = values[0][:, *part.inner]
