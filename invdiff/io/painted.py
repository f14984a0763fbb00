"""Paint on a photograph: where a picture has the color of a brush, and where a copy differs from the original."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold

from invdiff.io.picture import Array, Picture

__all__ = ["is_copy_of", "painted_in", "unlike"]

Hole = NDArray[np.bool_]

LIKE = 0.1  # largest difference of a channel, on the 0..1 scale, of pixels of a copy that was saved as a JPEG file
SMALLEST = 0.03  # smallest difference that counts as paint: eight levels of 8 bits
SURE = 0.15  # difference that paint has somewhere
CORE = 0.12  # largest difference of a channel from the color of the paint inside a stroke
PAINT = 0.1  # share of paint at the edge of a stroke from which it is filled
REACH, SURROUNDINGS = 3, 5.0  # pixels: between a stroke and what is taken as its surroundings; and their standard deviation
ROUNDS = 4  # soft brushes are followed outward, REACH pixels a round


def is_copy_of(picture: Picture, photograph: Picture, *, where: Hole) -> bool:
    """Return whether most pixels of ``where`` ``(H, W)`` are those of the photograph, of the same size, up to JPEG artifacts."""
    if not {len(picture.pixels), len(photograph.pixels)} <= {1, 3} or not where.any():
        return False
    return float((_difference(picture, photograph)[where] < LIKE).mean()) > 0.5


def unlike(copy: Picture, photograph: Picture, source: str, *, threshold: float | None = None) -> tuple[Hole, tuple[str, ...]]:
    """Return booleans ``(H, W)``, true where a painted copy differs from the photograph, and a note.

    A difference counts if it is larger than the threshold and connected to one that is clear, so that single pixels changed by
    a JPEG file do not.

    Args:
        copy: Picture of the size of the photograph, painted over in places.
        photograph: The photograph.
        source: Name of the copy in the note.
        threshold: Difference of a channel, on the 0..1 scale. Default: six times the median difference, at least 0.03.
    """
    difference = _difference(copy, photograph)
    lowest = _noise(difference) if threshold is None else threshold
    hole = apply_hysteresis_threshold(difference, lowest, max(lowest, SURE))
    return hole, (f"{source}: a copy of INPUT that differs from it in {hole.mean():.2%} of the pixels: these are filled",)


def painted_in(
    picture: Picture,
    color: tuple[int, int, int],
    source: str,
    *,
    threshold: float | None = None,
    clean: Picture | None = None,
) -> tuple[Hole, tuple[str, ...]]:
    r"""Return booleans ``(H, W)``, true where a picture is painted in a color, and a note.

    A pixel :math:`p` at the edge of a stroke is a mixture :math:`p = (1 - a) x + a c` of the scene :math:`x` and the color
    :math:`c`. Its share of paint :math:`a` is estimated by weighted least squares,

    .. math:: \hat a = \frac{(c - x)^\top \Sigma^{-1} (p - x)}{(c - x)^\top \Sigma^{-1} (c - x)}

    If the clean photograph is known, it is :math:`x`, and :math:`\Sigma = I`. Otherwise :math:`x` is the mean color around the
    stroke and :math:`\Sigma` the covariance of the colors about it, and shares below three of their standard deviations do not
    count. Filled is what is connected to pixels of the color itself.

    Args:
        picture: The painted picture, grayscale or RGB.
        color: Color of the paint, RGB of 8 bits.
        source: Name of the picture in notes and errors.
        threshold: Share of paint above which a pixel is filled. Default: 0.1.
        clean: The photograph without the paint, of the same size, if the picture may be a copy of it.

    Raises:
        ValueError: If no pixel has the color, or the picture cannot have it.
    """
    channels, name = len(picture.pixels), "#{:02x}{:02x}{:02x}".format(*color)
    if channels not in (1, 3):
        raise ValueError(f"{source}: has {channels} channels, and --mask-color is for grayscale and RGB pictures.")
    if channels == 1 and len({*color}) > 1:
        raise ValueError(
            f"{source}: is a grayscale picture, so that nothing in it can have the color {name}: see --mask-color."
        )
    pixels, paint = (picture.pixels + 1) / 2, np.array(color[:channels], dtype=np.float64)[:, None, None] / 255
    distance = np.abs(pixels - paint).max(0)
    shown = np.ones(distance.shape, dtype=bool) if picture.alpha is None else picture.alpha > 0
    lowest = PAINT if threshold is None else threshold
    if clean is not None and is_copy_of(picture, clean, where=shown):
        changed = _difference(picture, clean)
        scene = np.broadcast_to((clean.pixels + 1) / 2 if len(clean.pixels) == channels else _mean(clean), pixels.shape)
        share = ((paint - scene) * (pixels - scene)).sum(0) / ((paint - scene) ** 2).sum(0).clip(1e-6)
        differs = changed > _noise(changed)
        hole = apply_hysteresis_threshold(np.where(differs & shown, share, 0.0), lowest, 0.5)
        seen = bool(hole.any())
    else:
        core = (distance < CORE) & shown
        seen, hole = bool(core.any()), _followed(pixels, paint, core, shown, lowest)
    if not seen:
        row, column = np.unravel_index(np.argmin(np.where(shown, distance, np.inf)), distance.shape)
        nearest = "#{:02x}{:02x}{:02x}".format(
            *np.rint(255 * np.broadcast_to(pixels[:, row, column], 3)).astype(int).clip(0, 255)
        )
        raise ValueError(
            f"{source}: no pixel has the color {name} of --mask-color. The nearest is {nearest}, in column {column} and row "
            f"{row}, counted from 0."
        )
    return hole, (f"{source}: {hole.mean():.2%} of the pixels are painted in {name}: these are filled",)


def _followed(pixels: Array, paint: Array, core: Hole, shown: Hole, lowest: float) -> Hole:
    """Return strokes with their soft edges, given the pixels ``core`` that have the color of the paint."""
    hole = core
    for _ in range(ROUNDS):
        near = ndimage.distance_transform_edt(~hole) if hole.any() else np.full(hole.shape, np.inf)
        around = ((near > REACH) & shown).astype(np.float64)
        weight = ndimage.gaussian_filter(around, SURROUNDINGS)
        usable = weight > 1e-3
        scene = np.stack([ndimage.gaussian_filter(channel * around, SURROUNDINGS) for channel in pixels]) / weight.clip(1e-3)
        rest = (pixels - scene)[:, usable & (around > 0)]
        if not rest.size:
            return hole
        covariance = rest @ rest.T / rest.shape[1] + 1e-4 * np.eye(len(pixels))
        whitened = np.linalg.solve(np.linalg.cholesky(covariance), (paint - scene).reshape(len(pixels), -1))
        moved = np.linalg.solve(np.linalg.cholesky(covariance), (pixels - scene).reshape(len(pixels), -1))
        power = (whitened**2).sum(0).clip(1e-6)
        share, doubt = (whitened * moved).sum(0) / power, 1 / np.sqrt(power)
        counts = (share > np.maximum(lowest, 3 * doubt)).reshape(hole.shape) & usable & (near <= REACH) & shown
        labels, _ = ndimage.label(hole | counts, structure=np.ones((3, 3)))
        larger = np.isin(labels, np.unique(labels[core])) & (hole | counts) if core.any() else hole
        if (larger == hole).all():
            return hole
        hole = larger
    return hole


def _difference(picture: Picture, photograph: Picture) -> Array:
    ours, theirs = picture.pixels, photograph.pixels
    if len(ours) != len(theirs):  # one of them is grayscale
        ours, theirs = np.broadcast_to(ours, (3, *ours.shape[1:])), np.broadcast_to(theirs, (3, *theirs.shape[1:]))
    return np.asarray(np.abs(ours - theirs).max(0) / 2, dtype=np.float64)


def _mean(picture: Picture) -> Array:
    return np.asarray((picture.pixels.mean(0, keepdims=True) + 1) / 2, dtype=np.float64)


def _noise(difference: Array) -> float:
    """Return the difference from which a pixel of a copy is changed by more than a JPEG file does."""
    return max(6 * float(np.median(difference)), SMALLEST)
