"""A mask of damage, proposed from a picture alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
import skimage
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from invdiff.damage.detection import probabilities
from invdiff.damage.prediction import accepts
from invdiff.priors import ScoreModel

__all__ = ["KINDS", "SENSITIVITY", "THICKNESS", "Damage", "find_damage"]

KINDS = ("scratches", "dust", "stamp")  # the classes of the network, after that of no damage
SENSITIVITY = 0.3
FAINTER = 1 / 3  # of the probability needed, next to what is marked
LINE_LENGTH, LINE_RATIO = 40, 8  # axes of the ellipse of a line: length in pixels, and length to width
THICKNESS = 6  # pixels, up to which the network was fitted


@dataclass(frozen=True, eq=False)
class Damage:
    """Where a picture is probably damaged.

    Attributes:
        mask: Boolean ``(H, W)``, true at damaged pixels: those to be filled.
        probability: Probability of damage of any kind, ``(H, W)``, float32.
        shares: Share of the pixels of the picture that are marked as each kind.
        notes: Messages for the user.
    """

    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    shares: dict[str, float]
    notes: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Share of the pixels that are marked."""
        return float(self.mask.mean())


def find_damage(
    x: Tensor,
    score: ScoreModel | None,
    *,
    sensitivity: float = SENSITIVITY,
    find: str | Sequence[str] = KINDS,
    thickness: float = THICKNESS,
    progress: bool = False,
) -> Damage:
    """Propose which pixels of a picture are scratches, cracks, dust, date stamps or thin overlays.

    A small network looks for thin structures that resemble damage; the prior predicts what is behind them from their
    surroundings, and what differs more from it is the more probable to be damage. Both were fitted to photographs with
    synthetic damage: ``docs/how-to/scratches.md`` has figures. It is a proposal: thin parts of a scene, such as wires in front
    of the sky, are sometimes marked, and faint damage in texture is missed.

    Args:
        x: Picture, ``(C, H, W)``, spanning [-1, 1], of one channel or three.
        score: Prior that accepts a noise level for each pixel (``"pixel"`` in ``noise_kinds``), such as ``natural``; ``None``,
            or another prior: the network judges alone, for another prior with a note.
        sensitivity: In (0, 1): pixels are marked where damage is more probable than 1 minus this, and connected to them where
            it is a third as probable. Larger values find more, and mark more of the scene.
        find: Kinds of damage, of :data:`KINDS`: ``scratches`` (cracks and long lines too), ``dust`` (specks and fibers),
            ``stamp`` (date stamps and thin text). Connected pixels are of one kind.
        thickness: Width in pixels of the widest damage. Beyond :data:`THICKNESS` the picture is searched at smaller sizes too.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the picture has other channels, or an argument is out of range.
    """
    kinds = (find,) if isinstance(find, str) else tuple(find)
    if x.ndim != 3 or x.shape[0] not in (1, 3):
        raise ValueError(f"find_damage: expected a picture of one or three channels, (C, H, W), got {tuple(x.shape)}.")
    if not kinds or not set(kinds) <= set(KINDS):
        raise ValueError(f"find_damage: find must be kinds of damage among {', '.join(KINDS)}, got {find!r}.")
    if not 0 < sensitivity < 1:
        raise ValueError(f"find_damage: sensitivity must be above 0 and below 1, got {sensitivity}.")
    if not 1 <= thickness <= min(x.shape[1:]):
        raise ValueError(f"find_damage: thickness must be from 1 pixel to the side of the picture, got {thickness}.")
    notes = []
    if score is not None and not accepts(score):
        score = None
        notes.append(
            "the prior does not accept a noise level for each pixel, so that the mask is proposed without it and marks more of "
            "the scene: use the prior natural"
        )
    color = x.float().cpu().expand(3, -1, -1)
    found = _at_all_sizes(color, score, thickness, progress=progress)
    probability = (1 - found[0]).numpy()
    high = 1 - sensitivity
    marked = skimage.filters.apply_hysteresis_threshold(probability, FAINTER * high, high)  # type: ignore[no-untyped-call]
    kind_of = _kinds(marked, found[1:].numpy())
    shares = {kind: float((kind_of == 1 + KINDS.index(kind)).mean()) for kind in kinds}
    mask = np.isin(kind_of, [1 + KINDS.index(kind) for kind in kinds])
    return Damage(mask, probability, shares, tuple(notes))


def _kinds(marked: NDArray[np.bool_], found: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the kind of every pixel, from 1, and 0 where it is not marked; ``found`` has the probabilities of the kinds.

    Connected pixels are of one kind, the most probable in sum. The network takes long even lines for drawn ones; no part of a
    letter is as long, and they count as scratches.
    """
    parts, count = scipy.ndimage.label(marked, np.ones((3, 3), bool))
    if not count:
        return np.zeros(marked.shape, np.int64)
    sums = [scipy.ndimage.sum_labels(probability, parts, np.arange(1, count + 1)) for probability in found]
    kinds = 1 + np.argmax(sums, axis=0)
    wanted = ("axis_major_length", "axis_minor_length")
    axes = skimage.measure.regionprops_table(parts, properties=wanted)  # type: ignore[no-untyped-call]
    long, wide = axes["axis_major_length"], axes["axis_minor_length"]
    line = (long > LINE_LENGTH) & (long > LINE_RATIO * wide)
    kinds[line] = 1 + KINDS.index("scratches")
    return np.concatenate([[0], kinds])[parts]


def _at_all_sizes(x: Tensor, score: ScoreModel | None, thickness: float, *, progress: bool) -> Tensor:
    """Return probabilities ``(classes, H, W)``: in every pixel those of the size at which damage is most probable."""
    found = probabilities(x, score, progress=progress)
    for octave in range(1, math.ceil(math.log2(max(thickness / THICKNESS, 1))) + 1):
        sides = [max(side // 2**octave, 1) for side in x.shape[1:]]
        small = F.interpolate(x[None], sides, mode="bilinear", antialias=True, align_corners=False)[0]
        wide = F.interpolate(probabilities(small, score, progress=progress)[None], x.shape[1:], mode="bilinear")[0]
        found = torch.where(wide[:1] < found[:1], wide, found)
    return found
