"""A proposal of the mask for inpainting: ``invdiff.propose_mask``, the Python counterpart of ``invdiff mask``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from invdiff.damage import KINDS, SENSITIVITY, THICKNESS, Damage, find_damage
from invdiff.io.figures import marked_picture
from invdiff.io.images import Picture, write_image
from invdiff.io.source import Source
from invdiff.priors import ScoreModel
from invdiff.restoration.device import pick_device
from invdiff.restoration.priors import find_prior
from invdiff.restoration.transparency import with_visible_colors

__all__ = ["Proposal", "propose_mask"]


@dataclass(frozen=True, eq=False)
class Proposal:
    """A mask of probable damage, to be corrected by hand.

    Attributes:
        picture: The picture.
        damage: What was found in it.
        notes: Messages for the user.
    """

    picture: Picture
    damage: Damage
    notes: tuple[str, ...] = ()

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Boolean ``(H, W)``, true where pixels are to be filled."""
        return self.damage.mask

    @property
    def probability(self) -> NDArray[np.float32]:
        """Probability of damage, ``(H, W)``."""
        return self.damage.probability

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mask as an image, white where pixels are to be filled; its folder must exist."""
        write_image(path, 2.0 * self.mask[None] - 1)

    def save_overlay(self, path: str | os.PathLike[str]) -> None:
        """Write the faded picture with the marked pixels in red as a PNG, to check the mask; its folder must exist."""
        marked_picture(path, self.picture.pixels, self.mask)


def propose_mask(
    source: Any,
    *,
    prior: str | ScoreModel | None = "natural",
    sensitivity: float = SENSITIVITY,
    find: str | Sequence[str] = KINDS,
    thickness: float = THICKNESS,
    device: str = "auto",
    progress: bool = False,
) -> Proposal:
    """Propose which pixels of a picture are damaged: scratches, cracks, dust, date stamps and thin overlays.

    >>> proposal = invdiff.propose_mask("photo.jpg")  # doctest: +SKIP
    >>> proposal.save("mask.png")  # doctest: +SKIP
    >>> invdiff.restore("photo.jpg", problem="inpaint", mask=proposal.mask)  # doctest: +SKIP

    Args:
        source: The picture: a path, a Pillow image, or an array or tensor on the 0..1 scale, ``(H, W)`` or ``(C, H, W)``.
        prior: A name or file of a prior, or a prior, as in :func:`invdiff.restore`; ``None``: judge without one.
        sensitivity: In (0, 1): pixels are marked where damage is more probable than 1 minus this.
        find: Kinds of damage, of :data:`invdiff.damage.KINDS`.
        thickness: Width of the widest damage in pixels.
        device: Device of the prior; ``"auto"`` selects a GPU if there is one.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the picture is neither grayscale nor color, or an argument is out of range.
        OSError: If the file cannot be opened.
    """
    source = Path(source) if isinstance(source, str | os.PathLike) else source
    entry = Source(source)
    picture, notes = with_visible_colors(entry.picture(), str(entry))
    if len(picture.pixels) not in (1, 3):
        raise ValueError(f"{entry}: expected a grayscale or color picture, got {len(picture.pixels)} channels.")
    score = None if prior is None else find_prior(prior, device=pick_device(device))
    damage = find_damage(
        torch.from_numpy(picture.pixels), score, sensitivity=sensitivity, find=find, thickness=thickness, progress=progress
    )
    return Proposal(picture, damage, (*picture.notes, *notes, *damage.notes))
