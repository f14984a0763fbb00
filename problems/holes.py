"""Holes that are wider than the prior can fill plausibly."""

from __future__ import annotations

import scipy
from torch import Tensor

from invdiff.priors import ScoreModel

__all__ = ["hole_doubts"]


def hole_doubts(missing: Tensor, score: ScoreModel) -> tuple[str, ...]:
    """Return a note if a hole is wider than the prior fills plausibly.

    The width of a hole is the diameter of the largest disc that fits into it, so that scratches count by their thickness. A
    pixel at the border of the image is as far from the known pixels as it is on its own side.

    Args:
        missing: Boolean, ``(..., H, W)``: true where a pixel is not known. A pixel counts as missing if it is in all channels.
        score: The prior; its :attr:`~invdiff.priors.ScoreModel.widest_hole` is the width.
    """
    if score.widest_hole is None:
        return ()
    whole = missing.flatten(0, -3).all(0) if missing.ndim > 2 else missing
    if whole.all():
        return ()
    if whole.sum() < 0.75 * score.widest_hole**2:
        return ()  # fewer pixels than the disc has
    # The distance to the nearest known pixel is 1 in a hole of one or two pixels, 2 in one of three or four.
    width = round(2 * float(scipy.ndimage.distance_transform_edt(whole.numpy()).max()))
    if width <= score.widest_hole + 1:
        return ()
    return (
        f"a hole is {width} pixels wide, and the prior fills holes of up to about {score.widest_hole} pixels plausibly: expect "
        "blurred or wrong structures in it; fill it in a smaller copy of the picture, or with a --prior for such scenes",
    )
